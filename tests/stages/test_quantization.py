"""Products in float8 from request to file: what a run says of them, and what the next one sees."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import toys
from tests.lora.files import whole_file
from tests.toy_i2v import i2v_pipeline
from training.pocket.saving import save_all_parts
from wanavatar_lab import media
from wanavatar_lab.memory import Choice, apply_offload
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import ImageToVideo, RequestError, SpeechToVideo
from wanavatar_lab.stages import kernels, stage_module
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.wan.float8 import quantized

STAGES = ("speech_to_video", "image_to_video")
Make = Callable[..., tuple[np.ndarray, StageContext]]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = toys.pocket_weights(tmp_path_factory.mktemp("weights"))
    save_all_parts(i2v_pipeline(), "image_to_video", folder)
    whole_file(folder / "loras/mov/character/ann.safetensors", toys.s2v_transformer(), 0)
    whole_file(folder / "loras/mov/move/walk.safetensors", i2v_pipeline().transformer, 0)
    return folder


def clip_request(place: Path, stage: str, **fields: Any) -> SpeechToVideo | ImageToVideo:
    common = {"profile": "pocket", "image": str(toys.picture(place / "a.png")), "resolution": "64x64", "seed": 1}
    common |= {"num_inference_steps": 4, "guidance_scale": 2.0}
    if stage == "image_to_video":
        return ImageToVideo(**common | {"prompt": "a person", "frame_num": 5} | fields)
    voice = str(toys.voice(place / "v.wav", 1.0))
    return SpeechToVideo(**common | {"audio": voice, "frames_per_segment": 8, "lead_in": False} | fields)


@pytest.fixture(params=STAGES)
def make(request: pytest.FixtureRequest, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Clips by the same models, which are an attribute."""
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(weights))
    module: Any = stage_module(request.param)
    models = module.load(PROFILES["pocket"], "cpu")

    def made(**fields: Any) -> tuple[np.ndarray, StageContext]:
        context = StageContext(Path(tempfile.mkdtemp(dir=tmp_path)), seed=1)
        (artifact,) = module.run(clip_request(tmp_path, request.param, **fields), models, context)
        return np.stack(list(media.read_frames(context.folder / artifact.path))), context

    made.models, made.stage = models, request.param  # type: ignore[attr-defined]
    yield made
    torch._dynamo.reset()


def log_of(context: StageContext) -> str:
    return (context.folder / "log.txt").read_text() if (context.folder / "log.txt").exists() else ""


def test_a_run_is_in_float8_and_the_next_exact_one_knows_nothing_of_it(make: Any) -> None:
    network = make.models.pipeline.transformer
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    exact, context = make()
    assert "quantization" not in context.facts and "Quantization" not in log_of(context)
    rounded, context = make(quantization="fp8")
    layers = 16 * (2 if make.stage == "image_to_video" else 1)  # of two experts
    assert context.facts["quantization"] == "fp8"
    assert f"Quantization fp8: {layers} linear layers multiply in float8." in log_of(context)
    assert f"In {layers} of them it is emulated" in log_of(context) and "not faster" in log_of(context)
    assert not np.array_equal(rounded, exact) and np.abs(rounded.astype(int) - exact).mean() < 5
    assert np.array_equal(make(quantization="fp8")[0], rounded)
    assert np.array_equal(make()[0], exact)
    after = network.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def test_loras_of_a_run_change_in_it_and_leave(make: Any) -> None:
    """The weights change at a step of each segment, or with the expert."""
    name, changing = ("ann", {"lora_schedule": "progress"}) if make.stage == "speech_to_video" else ("walk", {})
    exact, rounded = make()[0], make(quantization="fp8")[0]
    weak, _ = make(quantization="fp8", loras=f"{name}:0.2:0.1", **changing)
    strong, context = make(quantization="fp8", loras=f"{name}:1:0.5", **changing)
    exact_strong, _ = make(loras=f"{name}:1:0.5", **changing)
    assert [lora["name"] for lora in context.facts["loras"]] == [name]
    assert not np.array_equal(weak, rounded) and not np.array_equal(weak, strong)

    def distance(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.abs(one.astype(int) - other).mean())

    assert distance(strong, exact_strong) < distance(exact_strong, exact), "float8 changes less than the LoRA"
    assert np.array_equal(make(quantization="fp8")[0], rounded) and np.array_equal(make()[0], exact)


@pytest.mark.parametrize("make", ["speech_to_video"], indirect=True)
def test_compiled_blocks_make_the_same(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[dict[str, Any]] = [{"quantization": "fp8"}, {}, {"quantization": "fp8", "loras": "ann:1:0.5"}]
    wanted = [make(num_segments=1, **fields)[0] for fields in runs]
    monkeypatch.setattr(kernels, "BACKEND", "eager")
    monkeypatch.setenv("WANAVATAR_COMPILE", "on")
    for fields, uncompiled in zip([*runs, runs[0]], [*wanted, wanted[0]], strict=True):
        made, context = make(num_segments=1, **fields)
        assert context.facts["compiled"] is True and "Compiling failed" not in log_of(context)
        assert np.abs(made.astype(int) - uncompiled).max() <= 1, fields


@pytest.mark.parametrize("offload", ["group", "fp8"])
@pytest.mark.parametrize("stage", STAGES)
def test_weights_that_change_between_layers_are_not_quantized(stage: str, offload: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=rf"quantization: must be none with offload {offload} \(got 'fp8'\)"):
        clip_request(tmp_path, stage, offload=offload, quantization="fp8")
    assert clip_request(tmp_path, stage, offload=offload).quantization == "none"


@pytest.mark.parametrize("make", ["speech_to_video"], indirect=True)
def test_where_memory_has_no_room_the_products_are_exact_and_the_log_says_so(
    make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, _ = make()
    group = Choice("group", True, {}, {}, None, 0, "as auto chooses on a small GPU")
    monkeypatch.setattr(apply_offload, "choose_for_device", lambda *_: group)
    made, context = make(quantization="fp8")
    assert np.array_equal(made, exact) and not quantized(make.models.pipeline.transformer)
    assert context.facts["quantization"] == "none"
    said = "Quantization fp8 is not used, and all products are exact: with offload group weights change between layers."
    assert log_of(context).count(said) == 1
