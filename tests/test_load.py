"""`wanavatar_lab.load` gives a diffusers pipeline, and what diffusers' documentation does with one works."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.hooks import CpuOffload  # type: ignore[import-untyped]
from diffusers import DiffusionPipeline, Flux2KleinPipeline, WanImageToVideoPipeline
from diffusers.utils import logging as diffusers_logging
from torch import nn
from transformers.utils import logging as transformers_logging

import wanavatar_lab
from tests.lora.files import merged, whole_file
from tests.memory.test_model_offload import clip, moving, picture
from wanavatar_lab.errors import LabError
from wanavatar_lab.memory import Choice, apply_offload
from wanavatar_lab.memory.apply_offload import networks
from wanavatar_lab.memory.choose_offload import choose_for_device
from wanavatar_lab.s2v import WanSpeechToVideoPipeline
from wanavatar_lab.wan.scheduler import WanUniPCScheduler

MAKE: dict[str, Callable[[Any], torch.Tensor]] = {
    "text_to_image": picture,
    "image_to_video": moving,
    "speech_to_video": clip,
}
KINDS = {
    "text_to_image": Flux2KleinPipeline,
    "image_to_video": WanImageToVideoPipeline,
    "speech_to_video": WanSpeechToVideoPipeline,
}
every_stage = pytest.mark.parametrize("stage", MAKE)


@pytest.fixture(autouse=True)
def toy_weights(every_toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(every_toy))


def load(stage: str, device: str = "cpu", offload: str = "auto") -> Any:
    pipeline = wanavatar_lab.load(stage, profile="pocket", device=device, offload=offload)
    assert isinstance(pipeline, KINDS[stage]) and isinstance(pipeline, DiffusionPipeline)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, atol=2e-5)


@every_stage
def test_loras_are_loaded_weighed_and_taken_out(stage: str, tmp_path: Path) -> None:
    pipeline, make = load(stage), MAKE[stage]
    before = make(pipeline)
    plain = merged(pipeline.transformer)
    _, face = whole_file(tmp_path / "face.safetensors", pipeline.transformer, 0)
    style_file, style = whole_file(tmp_path / "style.safetensors", pipeline.transformer, 1)

    def wanted(*differences: Any, weights: tuple[float, ...]) -> torch.Tensor:
        other = load(stage)
        other.register_modules(transformer=merged(plain, *differences, weights=weights))
        return make(other)

    pipeline.load_lora_weights(str(tmp_path), weight_name="face.safetensors", adapter_name="face")
    assert close(make(pipeline), wanted(face, weights=(1.0,)))
    pipeline.load_lora_weights(str(style_file), adapter_name="style")
    pipeline.set_adapters(["face", "style"], adapter_weights=[0.5, 2.0])
    assert sorted(pipeline.get_active_adapters()) == ["face", "style"]
    both = make(pipeline)
    assert close(both, wanted(face, style, weights=(0.5, 2.0)))
    assert not close(both, before)
    pipeline.set_adapters("style")
    assert close(make(pipeline), wanted(style, weights=(1.0,)))
    pipeline.disable_lora()
    assert torch.equal(make(pipeline), before)
    pipeline.enable_lora()
    pipeline.delete_adapters("face")
    assert pipeline.get_list_adapters() == {"transformer": ["style"]}
    pipeline.unload_lora_weights()
    assert pipeline.get_list_adapters() == {}
    assert torch.equal(make(pipeline), before)


def test_the_pipeline_of_a_profile_makes_clips_of_its_usual_size() -> None:
    pipeline = load("speech_to_video")
    call = {"prompt": "a person speaks", "negative_prompt": "", "frames_per_segment": 4, "num_inference_steps": 1}
    made = pipeline(np.zeros((300, 300, 3), np.uint8), torch.sin(torch.arange(3000) / 20), motion_frames=5, **call)
    assert made.frames.shape == (1, 1, 128, 128, 3)


@every_stage
def test_a_lora_is_fused_and_released(stage: str, tmp_path: Path) -> None:
    pipeline, make = load(stage), MAKE[stage]
    file, _ = whole_file(tmp_path / "face.safetensors", pipeline.transformer, 0)
    before = make(pipeline)
    pipeline.load_lora_weights(str(file), adapter_name="face")
    beside = make(pipeline)
    pipeline.fuse_lora(components=["transformer"], lora_scale=1.0)
    assert close(make(pipeline), beside) and not close(beside, before)
    pipeline.unfuse_lora(components=["transformer"])
    pipeline.unload_lora_weights()
    assert close(make(pipeline), before)


def test_the_second_expert_takes_a_lora_of_its_own(tmp_path: Path) -> None:
    pipeline = load("image_to_video")
    second = merged(pipeline.transformer_2)
    file, face = whole_file(tmp_path / "face.safetensors", pipeline.transformer_2, 0)
    pipeline.load_lora_weights(str(file), adapter_name="face", load_into_transformer_2=True)
    made = moving(pipeline)
    other = load("image_to_video")
    other.register_modules(transformer_2=merged(second, face))
    assert close(made, moving(other))
    assert not close(made, moving(load("image_to_video")))


@every_stage
def test_an_attention_backend_is_set(stage: str) -> None:
    pipeline, make = load(stage), MAKE[stage]
    before = make(pipeline)
    for backend in ("_native_math", "native"):
        pipeline.transformer.set_attention_backend(backend)
        processors = [getattr(module, "processor", None) for module in pipeline.transformer.modules()]
        used = {str(getattr(one._attention_backend, "value", one._attention_backend)) for one in processors if one}
        assert used == {backend}
        # close, since late in a long session the same sums were seen to differ
        assert close(make(pipeline), before)
    with pytest.raises(ValueError, match="must be one of"):
        pipeline.transformer.set_attention_backend("nonsense")


@every_stage
def test_what_is_saved_makes_the_same_when_it_is_loaded(stage: str, tmp_path: Path) -> None:
    pipeline, make = load(stage), MAKE[stage]
    pipeline.save_pretrained(tmp_path / "saved")
    again = KINDS[stage].from_pretrained(tmp_path / "saved", torch_dtype=torch.float32)
    again.set_progress_bar_config(disable=True)
    # diffusers' own convolutions sum in another order
    assert close(make(again), make(pipeline))


def test_a_pipeline_with_our_solver_is_saved_too(tmp_path: Path) -> None:
    # what a folder in Wan-AI's layout is loaded as
    pipeline = load("image_to_video")
    pipeline.register_modules(scheduler=WanUniPCScheduler.shifted(5.0))
    pipeline.save_pretrained(tmp_path / "saved")
    again = WanImageToVideoPipeline.from_pretrained(tmp_path / "saved", torch_dtype=torch.float32)
    again.set_progress_bar_config(disable=True)
    assert type(again.scheduler) is WanUniPCScheduler
    assert close(moving(again), moving(pipeline))


@every_stage
def test_parts_serve_another_pipeline(stage: str) -> None:
    pipeline, make = load(stage), MAKE[stage]
    settings = {name: value for name, value in pipeline.config.items() if name in ("boundary_ratio", "is_distilled")}
    other = KINDS[stage](**pipeline.components, **settings)
    other.set_progress_bar_config(disable=True)
    assert other.transformer is pipeline.transformer
    assert torch.equal(make(other), make(pipeline))


def offload_models(pipeline: Any) -> None:
    pipeline.enable_model_cpu_offload(device="cpu")
    for part in networks(pipeline).values():
        assert isinstance(part._hf_hook, CpuOffload)


def offload_layers(pipeline: Any) -> None:
    pipeline.enable_group_offload(onload_device=torch.device("cpu"), offload_type="leaf_level")
    linear: Any = next(module for module in pipeline.transformer.modules() if isinstance(module, nn.Linear))
    assert linear._diffusers_hook.get_hook("group_offloading") is not None


def tile(pipeline: Any) -> None:
    pipeline.vae.enable_tiling()
    pipeline.vae.enable_slicing()


@every_stage
@pytest.mark.parametrize("change", [offload_models, offload_layers, tile])
def test_memory_is_saved_and_the_same_is_made(stage: str, change: Callable[[Any], None]) -> None:
    pipeline, make = load(stage), MAKE[stage]
    before = make(pipeline)
    change(pipeline)
    for _ in range(2):
        assert close(make(pipeline), before)  # at this size one tile is all


@every_stage
def test_weights_are_stored_in_8_bits(stage: str) -> None:
    pipeline, make = load(stage), MAKE[stage]
    before = make(pipeline)
    pipeline.transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert any(parameter.dtype == torch.float8_e4m3fn for parameter in pipeline.transformer.parameters())
    assert 0 < float((make(pipeline) - before).abs().mean()) < 0.1


def test_auto_takes_no_mode_in_which_loras_would_be_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, tuple[str, ...]]] = []

    def choosing(*given: Any) -> Choice:
        asked.append((given[4], given[5]))
        return choose_for_device(*given)

    monkeypatch.setattr(apply_offload, "choose_for_device", choosing)
    load("speech_to_video")
    assert asked == [("auto", ("fp8",))]


def test_upscale_is_no_pipeline() -> None:
    with pytest.raises(LabError, match=r"upscale is no diffusers pipeline"):
        wanavatar_lab.load("upscale", profile="pocket", device="cpu")


@pytest.mark.gpu
@every_stage
@pytest.mark.parametrize("offload", ["none", "model", "group"])
def test_on_a_gpu_too(stage: str, offload: str, tmp_path: Path) -> None:
    make = MAKE[stage]
    wanted = make(load(stage, "cuda", "none")).cpu()
    pipeline = load(stage, "cuda", offload)
    file, face = whole_file(tmp_path / "face.safetensors", load(stage).transformer, 0)
    other = load(stage)
    other.register_modules(transformer=merged(other.transformer, face))
    with_face = make(other.to("cuda")).cpu()

    def like(other: torch.Tensor) -> bool:
        # convolutions round their factors to ten bits
        return float((make(pipeline).cpu() - other).abs().mean()) < 2e-3

    assert like(wanted)
    pipeline.load_lora_weights(str(file), adapter_name="face")
    assert like(with_face)
    pipeline.unload_lora_weights()
    assert like(wanted)
    pipeline.transformer.set_attention_backend("_native_efficient")
    assert like(wanted)
    pipeline.transformer.set_attention_backend("native")
    pipeline.save_pretrained(tmp_path / "saved")
    again = KINDS[stage].from_pretrained(tmp_path / "saved", torch_dtype=torch.float32).to("cuda")
    assert float((make(again).cpu() - wanted).abs().mean()) < 2e-3
    if offload != "group":  # diffusers has no way from one to the other
        pipeline.enable_model_cpu_offload()
        assert like(wanted)
        assert all(parameter.device.type == "cpu" for parameter in pipeline.transformer.parameters())


def test_loading_shows_bars_in_a_terminal_and_nowhere_else(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries = (diffusers_logging, transformers_logging)
    load("text_to_image")
    assert "Loading" not in capsys.readouterr().err
    assert all(
        library.is_progress_bar_enabled() for library in libraries
    )  # loading outside of a run still shows progress
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    load("text_to_image")
    assert "Loading pipeline components" in capsys.readouterr().err
