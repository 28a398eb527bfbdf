"""The stage image_to_video from request to file, on untrained networks of the true classes."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import toys
from tests.s2v.toy import golden_tensors
from tests.toy_i2v import i2v_pipeline
from training.pocket.saving import save_all_parts
from wanavatar_lab import jobs, media, read_settings
from wanavatar_lab.errors import Cancelled, WeightsError
from wanavatar_lab.files import sha256_of
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import ImageToVideo, RequestError
from wanavatar_lab.stages import image_to_video
from wanavatar_lab.stages.context import StageContext, Step
from wanavatar_lab.wan.latents import picture_to_pixels
from wanavatar_lab.wan.scheduler import WanUniPCScheduler, flow_sigmas
from wanavatar_lab.wan.vae import FastCausalConv3d

BOUNDARY = 900  # timesteps from here on are the first expert's


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save_all_parts(i2v_pipeline(), "image_to_video", folder)
    return folder


@pytest.fixture
def place(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(weights))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WANAVATAR_WORKER_IDLE_SECONDS", "3")
    return tmp_path


@pytest.fixture
def models(place: Path) -> image_to_video.Models:
    return image_to_video.load(PROFILES["pocket"], "cpu")


def request(place: Path, **fields: Any) -> ImageToVideo:
    values = {
        "profile": "pocket",
        "image": str(toys.picture(place / "a.png")),
        "prompt": "a person speaks",
        "resolution": "64x64",
        "frame_num": 9,
        "num_inference_steps": 4,
        "guidance_scale": 2.0,
        "seed": 1,
    }
    return ImageToVideo(**values | fields)


def frames(place: Path, models: image_to_video.Models, seed: int = 1, **fields: Any) -> np.ndarray:
    folder = Path(tempfile.mkdtemp(dir=place))
    (artifact,) = image_to_video.run(request(place, **fields), models, StageContext(folder, seed=seed))
    return np.stack(list(media.read_frames(folder / artifact.path)))


def test_the_clip_has_the_frames_asked_for_and_says_what_made_it(place: Path) -> None:
    run = jobs.run_here(request(place))
    status = run.status()
    assert status.state == "succeeded", status.error
    (artifact,) = status.artifacts
    assert (artifact.kind, artifact.file) == ("video", "moving.mp4")
    clip = media.probe(run.path(artifact))
    assert (clip.width, clip.height, clip.fps, clip.frames) == (64, 64, 16, 9)
    facts = run.manifest()
    assert facts["seed"] == 1
    hashes = json.dumps(facts)
    for name in ("transformer/", "transformer_2/", "video_vae/", "text_encoder/"):
        assert f'"{name}' in hashes
    said = read_settings(run.path(artifact))
    assert said.to_request() == request(place).changed(image="a.png", seed=1)
    assert said.weights == facts["facts"]["weights"]
    assert said.inputs["image"] == {"name": "a.png", "sha256": sha256_of(place / "a.png")}
    assert str(place).encode() not in run.path(artifact).read_bytes()


def test_the_size_is_of_the_pictures_shape_if_it_is_automatic(place: Path, models: image_to_video.Models) -> None:
    assert frames(place, models, resolution="auto", frame_num=5, num_inference_steps=1).shape == (5, 144, 112, 3)


def test_the_log_says_what_is_left_out_of_picture_and_prompts(place: Path, models: image_to_video.Models) -> None:
    wide = str(toys.picture(place / "wide.png", (128, 64)))
    given = {"image": wide, "prompt": "word " * 511, "negative_prompt": "word " * 512, "num_inference_steps": 1}
    image_to_video.run(request(place, frame_num=5, **given), models, StageContext(place, seed=1))
    log = (place / "log.txt").read_text()
    assert "50% of image (128x64) is cut off at left and right to fill 64x64." in log
    assert "negative_prompt has 513 tokens: the model reads the first 512, and 1 are left out" in log
    assert " prompt has" not in log, "with its end it has 512"


@pytest.mark.parametrize("frame_num", [48, 0, 1, 8])
def test_other_numbers_of_frames_are_refused(place: Path, frame_num: int) -> None:
    with pytest.raises(RequestError, match="frame_num"):
        request(place, frame_num=frame_num)


def timesteps_of(models: image_to_video.Models) -> dict[str, list[int]]:
    """The timesteps of each expert's calls from now on."""
    seen: dict[str, list[int]] = {"transformer": [], "transformer_2": []}
    for name, calls in seen.items():
        getattr(models.pipeline, name).register_forward_pre_hook(
            lambda _, __, given, calls=calls: calls.append(int(given["timestep"])), with_kwargs=True
        )
    return seen


def test_each_expert_works_on_its_side_of_the_boundary_with_its_own_guidance(
    place: Path, models: image_to_video.Models
) -> None:
    seen = timesteps_of(models)
    both = frames(place, models, num_inference_steps=6)
    expected = shifted(6, 5.0).tolist()
    high = [t for t in expected if t >= BOUNDARY]
    low = [t for t in expected if t < BOUNDARY]
    assert len(high) >= 2 and len(low) >= 2
    # with guidance the prompt and the negative prompt take a pass each
    assert seen == {"transformer": [t for t in high for _ in "ab"], "transformer_2": [t for t in low for _ in "ab"]}
    assert not np.array_equal(both, frames(place, models, num_inference_steps=6, guidance_scale_2=9.0))


@pytest.mark.parametrize(("high", "low"), [(2.0, 1.0), (1.0, 2.0), (1.0, 1.0)])
def test_an_expert_whose_guidance_is_1_takes_no_second_pass(
    high: float, low: float, place: Path, models: image_to_video.Models
) -> None:
    fields = {"frame_num": 17, "segment_frames": 9, "num_inference_steps": 6}
    plain = frames(place, models, guidance_scale=1.0, **fields)
    seen = timesteps_of(models)
    made = frames(place, models, guidance_scale=high, guidance_scale_2=low, **fields)
    steps = shifted(6, 5.0).tolist() * 2  # of two segments
    assert seen["transformer"] == [t for t in steps if t >= BOUNDARY for _ in range(1 + (high > 1))]
    assert seen["transformer_2"] == [t for t in steps if t < BOUNDARY for _ in range(1 + (low > 1))]
    assert np.array_equal(made, plain) == (high == low), "guidance acts where it is asked for"


def test_the_steps_are_the_references(place: Path, models: image_to_video.Models) -> None:
    golden = golden_tensors("flow_unipc_a.safetensors")
    solver = WanUniPCScheduler.shifted(5.0)
    solver.set_timesteps(40)
    assert torch.equal(solver.timesteps, golden["40_5.0_timesteps"])
    frames(place, models, flow_shift=3.0, num_inference_steps=5, guidance_scale=1.0)
    assert models.pipeline.scheduler.timesteps.tolist() == shifted(5, 3.0).tolist()
    assert models.pipeline.scheduler.config.solver_order == 2


def test_the_other_solver_takes_the_steps_of_the_reference(place: Path, models: image_to_video.Models) -> None:
    golden, seen = golden_tensors("flow_dpm_a.safetensors"), timesteps_of(models)
    fields: dict[str, Any] = {"flow_shift": 3.0, "num_inference_steps": 8, "guidance_scale": 1.0}
    made = frames(place, models, sample_solver="dpm++", **fields)
    assert seen["transformer"] + seen["transformer_2"] == golden["8_3.0_timesteps"].tolist()
    assert not np.array_equal(made, frames(place, models, **fields))


def shifted(steps: int, shift: float) -> np.ndarray:
    sigmas = flow_sigmas(steps)
    return (1000 * shift * sigmas / (1 + (shift - 1) * sigmas)).astype(np.int64)


def test_the_picture_is_covered_and_cut_at_its_centre(
    place: Path, models: image_to_video.Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[torch.Tensor] = []
    prepare = models.pipeline.prepare_latents

    def prepare_latents(image: torch.Tensor, *others: Any, **named: Any) -> Any:
        given.append(image)
        return prepare(image, *others, **named)

    monkeypatch.setattr(models.pipeline, "prepare_latents", prepare_latents)
    frames(place, models, num_inference_steps=1, guidance_scale=1.0)
    expected = picture_to_pixels(Image.open(place / "a.png"), 64, 64, Image.Resampling.LANCZOS)[:, :, 0]
    assert torch.allclose(given[0], expected, atol=1e-6)


def test_the_picture_is_scaled_as_by_diffusers(place: Path, models: image_to_video.Models) -> None:
    """By Lanczos; of a checkerboard that is too fine for the frame the mean remains."""
    picture = Image.open(toys.picture(place / "large.png", (320, 256)))
    expected = models.pipeline.video_processor.preprocess(picture, height=64, width=80)
    pixels = picture_to_pixels(picture, 64, 80, Image.Resampling.LANCZOS)[:, :, 0]
    assert torch.allclose(pixels, expected, atol=1e-6)
    assert not torch.allclose(picture_to_pixels(picture, 64, 80)[:, :, 0], expected, atol=1e-2)
    board = np.indices((256, 256)).sum(axis=0) % 2 * 255
    fine = picture_to_pixels(Image.fromarray(board.astype(np.uint8)), 64, 64, Image.Resampling.LANCZOS)
    assert fine.abs().max() < 0.02


def test_the_same_seed_gives_the_same_pictures_and_another_does_not(place: Path, models: image_to_video.Models) -> None:
    first = frames(place, models)
    assert np.array_equal(first, frames(place, models))
    assert not np.array_equal(first, frames(place, models, seed=2))


def test_cancel_takes_effect_within_one_step(place: Path, models: image_to_video.Models) -> None:
    folder = place / "cancelled"
    folder.mkdir()
    done: list[int] = []

    def on_step(step: Step) -> None:
        done.append(step.step)
        if step.step == 2:
            (folder / "cancel").touch()

    with pytest.raises(Cancelled):
        image_to_video.run(request(place, num_inference_steps=9), models, StageContext(folder, 1, on_step))
    assert done == [0, 1, 2]
    assert not list(folder.glob("*.mp4"))
    assert len(frames(place, models)) == 9, "the models are fit for another run"


def test_adapters_are_not_ignored(place: Path) -> None:
    status = jobs.run_here(request(place, loras=[{"name": "smile"}])).status()
    assert status.state == "failed"
    assert "smile" in (status.error or "")


def test_what_is_missing_is_named(place: Path, weights: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(PROFILES["pocket"].weights("image_to_video", weights), tmp_path / "i2v")
    elsewhere = PROFILES["pocket"].shared_parts("image_to_video", weights)
    with pytest.raises(WeightsError, match="vae"):
        image_to_video.load_pipeline(folder, torch.float32)
    shutil.rmtree(folder / "transformer_2")
    with pytest.raises(WeightsError, match="transformer_2"):
        image_to_video.load_pipeline(folder, torch.float32, elsewhere)


def test_a_whole_folder_is_read_as_it_is(tmp_path: Path) -> None:
    made = i2v_pipeline()
    made.save_pretrained(tmp_path)
    read = image_to_video.load_pipeline(tmp_path, torch.float32)
    for name in ("vae", "text_encoder", "transformer", "transformer_2"):
        expected, found = getattr(made, name).state_dict(), getattr(read, name).state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert read.config.boundary_ratio == 0.9
    assert isinstance(read.vae.decoder.conv_in, FastCausalConv3d), "made for a CPU, too"


def test_two_experts_without_a_boundary_are_refused(tmp_path: Path) -> None:
    i2v_pipeline().save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps(index | {"boundary_ratio": None}))
    with pytest.raises(WeightsError, match="boundary_ratio"):
        image_to_video.load_pipeline(tmp_path, torch.float32)
