"""The networks of stages, counted from files and from the table."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import toy_flux, toys
from tests.memory.machines import make_random_weights_on_meta
from tests.s2v.published import published_shapes
from tests.toy_i2v import expert, i2v_pipeline
from tests.wan.test_load import PARTS, write_expert
from training.pocket.saving import save_all_parts
from wanavatar_lab.bench.random_models import random_pipeline
from wanavatar_lab.errors import WeightsError
from wanavatar_lab.memory import Component, stage_components
from wanavatar_lab.memory.apply_offload import components_in, networks, store_in_8_bits
from wanavatar_lab.memory.components import PUBLISHED, bytes_to_load, tensor_sizes, weights_are_there
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.wan.float8 import quantize, restore
from wanavatar_lab.wan.load import load_expert, load_text_encoder, load_vae

POCKET, FULL = PROFILES["pocket"], PROFILES["full"]


@pytest.mark.parametrize("stage", ["text_to_image", "image_to_video", "speech_to_video"])
def test_the_table_counts_as_the_published_configs_do(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_random_weights_on_meta(monkeypatch)
    pipeline = random_pipeline(stage, "published", torch.bfloat16)
    counted = {component.name: component for component in components_in(pipeline)}
    assert counted.keys() == {published.name for published in PUBLISHED[stage]}
    for published in PUBLISHED[stage]:
        found, network = counted[published.name], networks(pipeline)[published.name]
        buffers = sum(buffer.nbytes for buffer in network.buffers())  # which no file holds
        in_8_bits = None if found.fp8_bytes is None else found.fp8_bytes - buffers
        assert published == replace(
            found, gpu_bytes=found.gpu_bytes - buffers, fp8_bytes=in_8_bits, file_bytes=published.file_bytes
        )
        if stage != "text_to_image" and published.fp8_bytes is not None:
            before = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
            quantize(network, "meta")
            after = sum(tensor.nbytes for tensor in (*network.parameters(), *network.buffers()))
            assert before - after == published.gpu_bytes - published.float8_bytes
            restore(network)
        if published.fp8_bytes is not None:
            store_in_8_bits(network)
            assert sum(parameter.nbytes for parameter in network.parameters()) == published.fp8_bytes


def test_the_table_counts_as_the_published_files_do() -> None:
    rows = {row.name: row for row in PUBLISHED["speech_to_video"]}
    for name, manifest in (("transformer", "s2v_14b"), ("vae", "wan2.1_vae"), ("text_encoder", "umt5_xxl_encoder")):
        assert rows[name].parameters == sum(math.prod(shape) for shape in published_shapes(manifest).values())


def toy_folder(stage: str, folder: Path) -> dict[str, Component]:
    """Save a toy pipeline where the pocket profile expects it, and say what it consists of."""
    if stage == "text_to_image":
        toy_flux.pocket_weights(folder)
        return {component.name: component for component in components_in(toy_flux.pipeline())}
    pipeline = toys.s2v_pipeline() if stage == "speech_to_video" else i2v_pipeline()
    components = {component.name: component for component in components_in(pipeline)}
    save_all_parts(pipeline, stage, folder)
    return components


@pytest.mark.parametrize("stage", ["text_to_image", "image_to_video", "speech_to_video"])
def test_figures_off_the_headers_are_those_of_the_loaded_pipeline(stage: str, tmp_path: Path) -> None:
    loaded = toy_folder(stage, tmp_path)
    assert weights_are_there(POCKET, stage, tmp_path)
    read = stage_components(POCKET, stage, tmp_path, "cpu")
    assert {component.name for component in read} == loaded.keys()
    for component in read:
        same = loaded[component.name]
        assert component.parameters == pytest.approx(same.parameters, rel=0.01), component.name
        assert component.gpu_bytes == 4 * component.parameters, component.name
        assert (component.width, component.layers) == (same.width, same.layers), component.name
        if component.fp8_bytes is not None:
            assert same.fp8_bytes is not None
            saved = same.gpu_bytes - same.fp8_bytes  # buffers, which no file has, fall out of it
            assert component.gpu_bytes - component.fp8_bytes == pytest.approx(saved, rel=0.05), component.name
    assert bytes_to_load(POCKET, stage, tmp_path, "cpu") == sum(component.gpu_bytes for component in read)


def test_the_folder_that_wan_ai_publishes_is_read_too(tmp_path: Path) -> None:
    folder = tmp_path / FULL.locations["image_to_video"]
    for number, name in enumerate(("high_noise_model", "low_noise_model")):
        write_expert(folder / name, expert(number))
    shutil.copy(PARTS / "vae.pth", folder / "Wan2.1_VAE.pth")
    shutil.copy(PARTS / "t5.pth", folder / "models_t5_umt5-xxl-enc-bf16.pth")
    read = {each.name: each for each in stage_components(FULL, "image_to_video", tmp_path, "cuda")}
    networks = {
        "text_encoder": load_text_encoder(folder / "models_t5_umt5-xxl-enc-bf16.pth", torch.bfloat16),
        "transformer": load_expert(folder / "high_noise_model", torch.bfloat16),
        "transformer_2": load_expert(folder / "low_noise_model", torch.bfloat16),
        "vae": load_vae(folder / "Wan2.1_VAE.pth", torch.float32),
    }
    assert read.keys() == networks.keys()
    for name, network in networks.items():
        assert read[name].parameters == sum(parameter.numel() for parameter in network.parameters()), name
        assert read[name].gpu_bytes == sum(parameter.nbytes for parameter in network.parameters()), name
        assert read[name].file_bytes, name


def test_what_ships_and_is_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="brings them back"):
        stage_components(POCKET, "speech_to_video", tmp_path, "cpu")
    assert bytes_to_load(POCKET, "speech_to_video", tmp_path, "cpu") == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_of_torch_is_counted_without_being_unpickled(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(3, 5, dtype=dtype), "b": torch.zeros(7, dtype=dtype)}
    torch.save(tensors, tmp_path / "weights.pth")
    assert sorted(count for _, count in tensor_sizes(tmp_path / "weights.pth")) == [7, 15]


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut short"])
def test_a_damaged_file_of_torch_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"weights\.pth cannot be read"):
        list(tensor_sizes(tmp_path / "weights.pth"))
