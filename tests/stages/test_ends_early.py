"""How stages end before they are done: cancelled within a call of a network, or by values that are not finite."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file
from torch import nn

from tests import toy_flux, toys
from tests.lora.files import save, whole_file
from tests.toy_i2v import i2v_pipeline
from wanavatar_lab import jobs
from wanavatar_lab.errors import Cancelled, NotFinite, cancellable
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import ImageToVideo, Request, SpeechToVideo, TextToImage
from wanavatar_lab.stages import context, stage_module
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.wan.checkpoint_files import fill

# the name in errors, the folder of LoRAs, and the network that takes them
STAGES: dict[str, tuple[str, str, Callable[[], nn.Module]]] = {
    "text_to_image": ("Text to image", "img", toy_flux.transformer),
    "image_to_video": ("Image to video", "mov/move", lambda: i2v_pipeline().transformer),
    "speech_to_video": ("Speech to video", "mov/move", toys.s2v_transformer),
}


def request(stage: str, place: Path, **fields: Any) -> Request:
    if stage == "text_to_image":
        size = {"width": 64, "height": 64, "upscale": False, "num_inference_steps": 3}
        return TextToImage(**{"profile": "pocket", "prompt": "a woman"} | size | fields)
    picture = str(toys.picture(place / "a.png"))
    shown: dict[str, Any] = {"profile": "pocket", "image": picture, "resolution": "64x64", "num_inference_steps": 3}
    if stage == "image_to_video":
        return ImageToVideo(**shown | {"prompt": "a person", "frame_num": 9} | fields)
    voice = str(toys.voice(place / "v.wav", 0.5))
    return SpeechToVideo(**shown | {"audio": voice, "frames_per_segment": 8} | fields)


def run_stage(stage: str, models: Any, place: Path, folder: Path | None = None) -> list[Path]:
    """Run it in this folder or in a new one; the files that it made."""
    folder = folder or Path(tempfile.mkdtemp(dir=place))
    made = stage_module(stage).run(request(stage, place), models, StageContext(folder, seed=1))
    return [folder / artifact.path for artifact in made]


def results_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix in (".png", ".mp4")]


@pytest.mark.parametrize("stage", STAGES)
def test_a_lora_that_overflows_fails_the_run_by_its_step(stage: str, place: Path) -> None:
    name, kind, network = STAGES[stage]
    file, _ = whole_file(place / "loras" / kind / "huge.safetensors", network())
    save(file, {key: tensor * 1e30 for key, tensor in load_file(file).items()})  # finite, as their product is not
    run = jobs.run_here(request(stage, place, loras=["huge"]))
    status = run.status()
    assert status.state == "failed" and status.error is not None
    assert status.error.startswith(name) and "the latents after step 1 of 3 have NaN" in status.error
    assert "a LoRA weight that is too large and an overflow in half precision" in status.error
    assert ("segment 1 of " in status.error) == (stage != "text_to_image")
    assert results_in(run.folder) == []


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("stage", STAGES)
def test_decoded_pixels_that_are_not_finite_fail_the_run(stage: str, wrong: float, place: Path) -> None:
    models = stage_module(stage).load(PROFILES["pocket"], "cpu")
    models.pipeline.vae.decoder.conv_out.bias.data[0] = wrong
    with pytest.raises(NotFinite, match=f"^{STAGES[stage][0]}.*: the decoded (pixels|frames) have NaN or infinite"):
        run_stage(stage, models, place)
    assert not [*place.rglob("*.mp4"), *place.rglob("picture.png")]


class CancelWithin:
    """Cancels the run in `folder` when a network is called for the `at`-th time; counts its blocks' calls from then."""

    def __init__(self, folder: Path, network: Any, at: int = 1) -> None:
        self.blocks, calls = 0, 0

        def cancel(*_: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == at:
                (folder / "cancel").touch()

        def count(*_: Any) -> None:
            self.blocks += (folder / "cancel").exists()

        self._hooks = [network.register_forward_pre_hook(cancel, prepend=True)]
        for module in network.modules():
            if isinstance(module, nn.ModuleList):
                self._hooks += [block.register_forward_hook(count) for block in module]

    def end(self) -> None:
        for hook in self._hooks:
            hook.remove()


CALLS = [
    ("text_to_image", "text_encoder"),
    ("text_to_image", "vae.decoder"),
    ("image_to_video", "text_encoder"),
    ("image_to_video", "vae.encoder"),
    ("image_to_video", "vae.decoder"),
    ("speech_to_video", "audio_encoder"),
    ("speech_to_video", "text_encoder"),
    ("speech_to_video", "vae.encoder"),
    ("speech_to_video", "vae.decoder"),
]


@pytest.mark.parametrize(("stage", "called"), CALLS)
def test_a_cancel_takes_effect_before_the_next_block(
    stage: str, called: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context, "LOOK_EVERY", 0.0)  # on a toy network all blocks are called within it
    models = stage_module(stage).load(PROFILES["pocket"], "cpu")
    network, folder = models.pipeline, Path(tempfile.mkdtemp(dir=place))
    for name in called.split("."):
        network = getattr(network, name)
    during = CancelWithin(folder, network)
    with pytest.raises(Cancelled):
        run_stage(stage, models, place, folder)
    during.end()
    assert during.blocks == 0
    assert results_in(folder) == []
    (made,) = run_stage(stage, models, place)
    assert made.stat().st_size > 0, "the models are fit for another run"
    assert not any(module._forward_pre_hooks for module in network.modules() if "Block" in type(module).__name__)


def test_models_that_load_stop_before_the_next_part(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, loaded = WanTransformer3DModel.from_pretrained, []

    def cancelling(*arguments: Any, **options: Any) -> Any:
        (job,) = jobs.list_jobs()
        job.run.request_cancel()
        loaded.append(arguments)
        return read(*arguments, **options)

    monkeypatch.setattr(WanTransformer3DModel, "from_pretrained", cancelling)
    assert jobs.run_here(request("image_to_video", place)).status().state == "cancelled"
    assert len(loaded) == 1, "the second expert is not read"
    with pytest.raises(Cancelled), cancellable(StageContext(jobs.list_jobs()[0].run.folder, 1).check):
        fill(nn.Linear(2, 2, device="meta"), [("weight", torch.zeros(2, 2))], torch.float32)
