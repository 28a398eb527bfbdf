"""What stages consist of, read off files and off the table."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLFlux2, AutoencoderKLWan, Flux2Transformer2DModel, WanTransformer3DModel
from transformers import Qwen3Config, Qwen3ForCausalLM, UMT5Config, UMT5EncoderModel, Wav2Vec2Config, Wav2Vec2Model

from tests import toy_flux, toys
from tests.s2v.published import published_shapes
from tests.toy_i2v import expert, i2v_pipeline
from tests.wan.test_load import PARTS, write_expert
from training.pocket.saving import save_all_parts
from wanavatar_lab.bench.network import forward_flops
from wanavatar_lab.errors import WeightsError
from wanavatar_lab.memory import Component, stage_components, usual_workload
from wanavatar_lab.memory.components import PUBLISHED, Published, bytes_to_load, tensors_of, weights_are_there
from wanavatar_lab.memory.estimate_time import forward_operations
from wanavatar_lab.memory.place import components_in
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.wan.load import load_expert
from wanavatar_lab.wan.text_checkpoint import load_text_encoder
from wanavatar_lab.wan.vae_checkpoint import load_vae

POCKET, FULL = PROFILES["pocket"], PROFILES["full"]


def published_networks(stage: str) -> dict[str, Any]:
    """The published networks on the meta device, from the published configs."""
    wan = dict(num_attention_heads=40, attention_head_dim=128, in_channels=36, out_channels=16, text_dim=4096)
    flux = dict(num_layers=8, num_single_layers=24, num_attention_heads=32, joint_attention_dim=12_288)
    qwen = dict(hidden_size=4096, intermediate_size=12_288, num_hidden_layers=36, num_attention_heads=32)
    wav2vec2 = dict(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096)
    with torch.device("meta"):
        if stage == "text_to_image":
            config = Qwen3Config(vocab_size=151_936, num_key_value_heads=8, head_dim=128, **qwen)
            return {
                "text_encoder": Qwen3ForCausalLM(config),
                "transformer": Flux2Transformer2DModel(attention_head_dim=128, guidance_embeds=False, **flux),
                "vae": AutoencoderKLFlux2(),
            }
        umt5 = UMT5Config(vocab_size=256_384, d_model=4096, d_kv=64, d_ff=10_240, num_layers=24, num_heads=64)
        both = {"text_encoder": UMT5EncoderModel(umt5), "vae": AutoencoderKLWan()}
        if stage == "image_to_video":
            experts = [WanTransformer3DModel(freq_dim=256, ffn_dim=13_824, num_layers=40, **wan) for _ in range(2)]
            return both | dict(zip(("transformer", "transformer_2"), experts, strict=True))
        audio = Wav2Vec2Config(feat_extract_norm="layer", do_stable_layer_norm=True, conv_bias=True, **wav2vec2)
        return both | {"transformer": WanS2VTransformer3DModel(), "audio_encoder": Wav2Vec2Model(audio)}


@pytest.mark.parametrize("stage", ["text_to_image", "image_to_video", "speech_to_video"])
def test_the_table_counts_as_the_meta_device_does(stage: str) -> None:
    networks = published_networks(stage)
    assert {row.name for row in PUBLISHED[stage]} == networks.keys()
    for row in PUBLISHED[stage]:
        network = networks[row.name]
        assert row.parameters == sum(parameter.numel() for parameter in network.parameters()), row.name
        assert row.component().largest_layer == _largest_layer(row, network), row.name
        if row.castable:
            _check_number_formats(row, network)


def _largest_layer(row: Published, network: Any) -> int:
    """Bytes of the layer that takes most memory on the GPU."""
    # of the models of transformers only float16 would bring this attribute into play
    kept = set(network._keep_in_fp32_modules or ()) if row.castable else set()

    def size(name: str, part: torch.nn.Module) -> int:
        itemsize = 4 if kept & set(name.split(".")) else row.itemsize
        return itemsize * sum(own.numel() for own in part.parameters(recurse=False))

    return max(size(name, part) for name, part in network.named_modules())


def _check_number_formats(row: Published, network: Any) -> None:
    kept = set(network._keep_in_fp32_modules or ())
    exact = {name for name, _ in network.named_parameters() if kept & set(name.split("."))}
    assert row.exact == sum(network.get_parameter(name).numel() for name in exact)
    network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    cast = [parameter for parameter in network.parameters() if parameter.dtype == torch.float8_e4m3fn]
    assert row.castable == sum(parameter.numel() for parameter in cast)


def test_the_table_counts_as_the_published_files_do() -> None:
    rows = {row.name: row for row in PUBLISHED["speech_to_video"]}
    for name, manifest in (("transformer", "s2v_14b"), ("vae", "wan2.1_vae"), ("text_encoder", "umt5_xxl_encoder")):
        assert rows[name].parameters == sum(math.prod(shape) for shape in published_shapes(manifest).values())


def test_operations_are_those_that_the_benchmark_counts() -> None:
    with torch.device("meta"):
        model = WanS2VTransformer3DModel()
    work = usual_workload("speech_to_video", "full", "832x480")
    (row,) = [row for row in PUBLISHED["speech_to_video"] if row.name == "transformer"]
    # the benchmark also counts what injects the audio
    assert forward_operations(work, row.component()) == pytest.approx(forward_flops(model, 480, 832, 80), rel=0.03)


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
    assert sorted(tensor.parameters for tensor in tensors_of([tmp_path / "weights.pth"])) == [7, 15]


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut short"])
def test_a_damaged_file_of_torch_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(WeightsError, match=r"weights\.pth cannot be read"):
        tensors_of([tmp_path / "weights.pth"])
