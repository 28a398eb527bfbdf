"""What lies in weights files, read off headers and tables of contents: no tensor is loaded, and torch is not needed."""

import json
import math
import pickletools
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from wanavatar_lab.errors import WeightsError
from wanavatar_lab.lora.header import read_header

_VARIANT = re.compile(r"\.(fp16|bf16|fp8|ema|non_ema)[.-]")
_ITEMSIZES = {"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        name: as the file calls it; empty where the file does not say it without being unpickled.
        parameters: how many numbers it has.
        dimensions: of its shape; 0 where the file does not say it.
    """

    name: str
    parameters: int
    dimensions: int


def tensors_of(files: list[Path]) -> list[StoredTensor]:
    """The tensors of some files, safetensors or such as `torch.save` writes.

    Raises:
        WeightsError: a file is not there, damaged, or of another kind.
    """
    return [tensor for file in files for tensor in (_safetensors(file) if _is_safe(file) else _saved(file))]


def weights_files(place: Path) -> list[Path]:
    """The files that a loader would read at a place: the file itself, or of a folder the shards or the whole ones."""
    if place.is_file():
        return [place]
    for index in sorted(place.glob("*.safetensors.index.json")):
        if not _VARIANT.search(index.name):
            return [place / name for name in sorted(set(_weight_map(index).values()))]
    for pattern in ("*.safetensors", "pytorch_model*.bin", "*.pth"):
        found = [file for file in sorted(place.glob(pattern)) if not _VARIANT.search(file.name)]
        if found:
            return found
    return []


def _is_safe(file: Path) -> bool:
    return file.suffix == ".safetensors"


def _safetensors(file: Path) -> Iterator[StoredTensor]:
    for name, shape in read_header(file).shapes.items():
        yield StoredTensor(name, math.prod(shape), len(shape))


def _saved(file: Path) -> Iterator[StoredTensor]:
    """A zip of storages with a pickle beside them, which is looked through for their number format and never run."""
    try:
        with zipfile.ZipFile(file) as archive:
            sizes = {item.filename: item.file_size for item in archive.infolist()}
            pickles = [name for name in sizes if name.endswith("data.pkl")]
            storages = [size for name, size in sizes.items() if "/data/" in f"/{name}"]
            words = [argument for _, argument, _ in pickletools.genops(archive.read(pickles[0]))] if pickles else []
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{file} cannot be read ({error}). Download it again.") from error
    kinds = {
        match[1] for word in words if isinstance(word, str) if (match := re.fullmatch(r"torch (\w+)Storage", word))
    }
    if len(kinds) != 1 or not kinds <= _ITEMSIZES.keys():
        found = ", ".join(sorted(kinds)) or "none"
        raise WeightsError(f"{file} should hold numbers of one format, and holds {found}. Download it again.")
    itemsize = _ITEMSIZES[kinds.pop()]
    yield from (StoredTensor("", size // itemsize, 0) for size in storages)


def _weight_map(index: Path) -> dict[str, str]:
    try:
        return dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{index} cannot be read ({error!r}). Download it again.") from error
