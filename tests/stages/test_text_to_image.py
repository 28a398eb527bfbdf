"""The stage text_to_image from request to file, on untrained networks of the true classes."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from PIL import Image
from safetensors.torch import load_file, save_file

from tests import toy_flux
from wanavatar_lab import jobs, media, read_settings
from wanavatar_lab.errors import WeightsError
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import TextToImage, Upscale
from wanavatar_lab.stages import kernels, text_to_image
from wanavatar_lab.stages.context import StageContext, Step
from wanavatar_lab.wan import attention

UPSCALER = Path(__file__).resolve().parents[1] / "golden" / "realesrgan_x2" / "toy_x2.pth"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = toy_flux.pocket_weights(tmp_path_factory.mktemp("weights"))
    (folder / "pocket" / "upscale").mkdir()
    shutil.copy(UPSCALER, folder / "pocket" / "upscale")
    return folder


@pytest.fixture
def place(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(weights))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WANAVATAR_WORKER_IDLE_SECONDS", "3")
    return tmp_path


def request(**fields: object) -> TextToImage:
    values = {"profile": "pocket", "prompt": "a woman with red hair", "width": 80, "height": 64, "seed": 1}
    return TextToImage(**values | {"upscale": False} | fields)


def picture(**fields: object) -> np.ndarray:
    run = jobs.run_here(request(**fields))
    status = run.status()
    assert status.state == "succeeded", status.error
    return np.asarray(media.read_picture(run.path(status.artifacts[0])))


def test_a_prompt_becomes_a_picture_that_says_how_it_was_made(place: Path) -> None:
    run = jobs.run_here(request(seed=-1))
    status = run.status()
    assert status.state == "succeeded", status.error
    (artifact,) = status.artifacts
    assert artifact.kind == "picture"
    with Image.open(run.path(artifact)) as image:
        assert (image.format, image.size) == ("PNG", (80, 64))
        assert image.info["Prompt"] == "a woman with red hair"
        said = json.loads(image.info["Request"])
    assert said["seed"] == status.seed is not None, "the seed really used"
    assert np.asarray(media.read_picture(run.path(artifact))).std() > 0
    again = TextToImage.from_json(said)
    same = jobs.run_here(again)
    assert same.path(same.status().artifacts[0]).read_bytes() == run.path(artifact).read_bytes()
    facts = run.manifest()
    assert "transformer/diffusion_pytorch_model.safetensors" in facts["facts"]["weights"]


def test_the_seed_decides_and_so_do_prompt_and_steps(place: Path) -> None:
    first = picture()
    assert np.array_equal(first, picture())
    assert not np.array_equal(first, picture(seed=2))
    assert not np.array_equal(first, picture(prompt="a man with a hat"))
    assert not np.array_equal(first, picture(num_inference_steps=2))


def test_the_noise_is_that_of_the_pipeline_with_a_generator_of_the_seed(place: Path) -> None:
    pipeline = toy_flux.pipeline()
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        prompt="a woman with red hair",
        width=80,
        height=64,
        num_inference_steps=4,
        guidance_scale=1.0,
        generator=torch.Generator("cpu").manual_seed(1),
    ).images[0]
    assert np.array_equal(np.asarray(made), picture())


def test_steps_are_reported_one_by_one(place: Path) -> None:
    seen: list[Step] = []
    context = StageContext(place, seed=1, on_step=seen.append)
    text_to_image.run(request(num_inference_steps=3), text_to_image.load(PROFILES["pocket"], "cpu"), context)
    assert [(step.phase, step.step, step.steps) for step in seen] == [("denoise", i, 3) for i in range(4)]


@pytest.mark.parametrize("distilled", [True, False])
def test_guidance_acts_where_it_is_not_distilled_into_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distilled: bool
) -> None:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(toy_flux.pocket_weights(tmp_path / "weights", distilled=distilled)))
    models = text_to_image.load(PROFILES["pocket"], "cpu")

    def made(scale: float) -> np.ndarray:
        context = StageContext(tmp_path, seed=1)
        text_to_image.run(request(guidance_scale=scale), models, context)
        return np.asarray(media.read_picture(tmp_path / "picture.png"))

    assert np.array_equal(made(1.0), made(5.0)) == distilled
    log = (tmp_path / "log.txt").read_text() if (tmp_path / "log.txt").exists() else ""
    assert ("guidance_scale 5 has no effect" in log) == distilled


def test_what_is_beyond_the_models_reach_of_a_prompt_is_said(place: Path) -> None:
    run = jobs.run_here(request(prompt="a woman with red hair " * 40))
    assert run.status().state == "succeeded"
    assert "reads the first 512" in run.log_tail(20)


def test_the_picture_is_enlarged_as_a_second_artifact(place: Path) -> None:
    run = jobs.run_here(request(upscale=True))
    status = run.status()
    assert status.state == "succeeded", status.error
    small, large = status.artifacts
    assert (small.role, large.role) == ("", "upscaled")
    assert media.read_picture(run.path(small)).size == (80, 64)
    enlarged = media.read_picture(run.path(large))
    assert enlarged.size == (160, 128)
    alone = jobs.run_here(Upscale(profile="pocket", image=str(run.path(small))))
    assert media.read_picture(alone.path(alone.status().artifacts[0])).tobytes() == enlarged.tobytes()
    facts = run.manifest()["facts"]
    assert facts["width"] == 80
    assert facts["upscale"]["width"] == 160
    assert UPSCALER.name in facts["upscale"]["weights"]
    said = [read_settings(run.path(artifact)) for artifact in run.status().artifacts]
    assert said[0] == said[1] and said[1].to_request() == run.request(), "both are made again by the same request"


def test_an_upscale_that_fails_fails_the_run(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = toy_flux.pocket_weights(tmp_path / "others")
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(weights))
    run = jobs.run_here(request(upscale=True))
    status = run.status()
    assert status.state == "failed"
    assert "upscale" in (status.error or "")
    assert not list(run.folder.glob("*.png")), "what was asked for cannot be made whole, so nothing is begun"


def test_loras_are_refused_by_name(place: Path) -> None:
    status = jobs.run_here(request(loras=["freckles:0.8"])).status()
    assert status.state == "failed"
    assert "freckles" in (status.error or "")


def test_missing_weights_are_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(place / "nowhere"))
    status = jobs.run_here(request()).status()
    assert status.state == "failed"
    assert str(place / "nowhere") in (status.error or "")


def test_a_tensor_that_is_missing_is_named_and_not_drawn_at_random(tmp_path: Path) -> None:
    folder = toy_flux.pocket_weights(tmp_path) / "pocket" / "text_to_image"
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["x_embedder.weight"]
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"x_embedder\.weight"):
        text_to_image.load_pipeline(folder, torch.float32)


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    folder = toy_flux.pocket_weights(tmp_path) / "pocket" / "text_to_image"
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(WeightsError, match="cannot be read"):
        text_to_image.load_pipeline(folder, torch.float32)


def test_attention_is_chosen_as_for_clips_and_blocks_are_compiled_only_when_asked(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = text_to_image.load(PROFILES["pocket"], "cpu")
    network, used = models.pipeline.transformer, list[str]()

    def note(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        used.append("noted")
        made: torch.Tensor = dispatch_attention_fn(query, key, value, backend="native")
        return made

    attention.register_backend("wanavatar_picture_tests", note)
    monkeypatch.setitem(attention.BACKENDS, "cudnn", ("wanavatar_picture_tests", None))
    monkeypatch.setattr(attention, "choose", lambda *_: ("cudnn", "fastest of sdpa 2.00 ms, cudnn 1.00 ms"))
    context = StageContext(place, seed=1)
    text_to_image.run(request(), models, context)
    blocks = len(network.transformer_blocks) + len(network.single_transformer_blocks)
    assert len(used) == 4 * blocks, "in every block of every step"
    assert (context.facts["attention"], context.facts["compiled"]) == ("cudnn", False)
    assert not (place / "log.txt").exists(), "on a CPU there is nothing to say"
    models.device = "cuda"
    kernels.prepare(request(), models, context)
    log = (place / "log.txt").read_text()
    assert "Attention by cudnn: fastest of sdpa 2.00 ms, cudnn 1.00 ms." in log
    assert "Blocks are not compiled: a picture is made sooner without. WANAVATAR_COMPILE=on compiles" in log


def test_compiled_blocks_draw_the_same_and_serve_every_prompt_of_a_size(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = text_to_image.load(PROFILES["pocket"], "cpu")

    def drawn(**fields: object) -> np.ndarray:
        text_to_image.run(request(**fields), models, context := StageContext(place, seed=1))
        assert context.facts["compiled"] == ("WANAVATAR_COMPILE" in os.environ)
        return np.asarray(media.read_picture(place / "picture.png")).astype(int)

    def graphs() -> int:
        return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])

    plain, before = drawn(), graphs()
    monkeypatch.setattr(kernels, "BACKEND", "eager")
    monkeypatch.setenv("WANAVATAR_COMPILE", "on")
    assert np.abs(drawn() - plain).max() <= 1
    assert 1 <= graphs() - before <= 2, "a graph for each kind of block"
    compiled = graphs()
    drawn(prompt="another prompt", num_inference_steps=2)
    assert graphs() == compiled
    torch._dynamo.reset()
