"""The header of a safetensors file: what it declares, and files that are refused with one error."""

import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.weights.safetensors_header import read_header, tensor_shapes


def written(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(start: int = 0, end: int = 4, dtype: str = "U8") -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": [4], "data_offsets": [start, end]}}


def test_names_shapes_dtypes_and_metadata_are_read(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    tensors = {
        "weight": torch.zeros(2, 3, dtype=torch.bfloat16),
        "fp8": torch.zeros(4).to(torch.float8_e4m3fn),
        "alpha": torch.tensor(16.0),
        "none": torch.zeros(0, 3),
    }
    save_file(tensors, file, {"format": "pt", "note": "ä"})
    header = read_header(file)
    assert header.shapes == {"weight": (2, 3), "fp8": (4,), "alpha": (), "none": (0, 3)} == tensor_shapes(file)
    assert header.dtypes == {"weight": "BF16", "fp8": "F8_E4M3", "alpha": "F32", "none": "F32"}
    assert header.metadata == {"format": "pt", "note": "ä"}
    assert (header.file, header.size) == (file, file.stat().st_size)


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8],
)
def test_scalars_are_read_in_every_dtype(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"before": torch.ones(3), "a": torch.tensor(-16, dtype=dtype), "b": torch.tensor([[3]], dtype=dtype)}
    save_file(tensors, tmp_path / "a.safetensors")
    assert read_header(tmp_path / "a.safetensors").scalars(["a", "b"]) == {"a": -16.0, "b": 3.0}


@pytest.mark.parametrize("tensor", [torch.ones(2), torch.ones(0), torch.tensor(1.0).to(torch.float8_e5m2)])
def test_what_is_no_single_number_is_refused(tmp_path: Path, tensor: torch.Tensor) -> None:
    save_file({"a": tensor}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"a\.safetensors has a as .*; need one number"):
        read_header(tmp_path / "a.safetensors").scalars(["a"])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"1234567", id="shorter than a length"),
        pytest.param(struct.pack("<Q", 99) + b"{}", id="header cut"),
        pytest.param(struct.pack("<Q", 1 << 62) + b"{}", id="huge header"),
        pytest.param(written([]), id="list"),
        pytest.param(written(b"\xff" * 64), id="no UTF-8"),
        pytest.param(written(b'{"a":' * 100_000), id="nested"),
        pytest.param(written(entry(), b"abc"), id="data cut"),
        pytest.param(written(entry(), b"abcde"), id="data left over"),
        pytest.param(written(entry(-4, 0), b"abcd"), id="negative offset"),
        pytest.param(written(entry(4, 8), b"abcdefgh"), id="gap"),
        pytest.param(written(entry(dtype="X9"), b"abcd"), id="unknown dtype"),
        pytest.param(written(entry(dtype="F32"), b"abcd"), id="size of another dtype"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match=r"a\.safetensors cannot be read: it is damaged, cut short or not"):
        read_header(tmp_path / "a.safetensors")


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "itself").symlink_to("itself")
    for name, reason in {
        "pipe": "not a regular file",
        "folder": "not a regular file",
        "dangling": "No such file",
        "itself": "symbolic links",
        "absent": "No such file",
    }.items():
        with pytest.raises(WeightsError, match=f"{name} cannot be read.*{reason}"):
            read_header(tmp_path / name)
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    (tmp_path / "link").symlink_to("a.safetensors")
    assert tensor_shapes(tmp_path / "link") == {"a": (1,)}
