"""The profile full on toy checkpoints that lie as people have them: under the published names, in either layout."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import wanavatar_lab
from tests import toy_flux, toys
from tests.s2v.published import GOLDEN, reference_names, write_checkpoint
from tests.toy_i2v import expert, i2v_pipeline
from tests.wan.test_load import PARTS, write_expert
from wanavatar_lab import jobs
from wanavatar_lab.cli import main
from wanavatar_lab.memory.components import weights_are_there
from wanavatar_lab.requests import ImageToVideo, Request, SpeechToVideo, TextToImage, Upscale
from wanavatar_lab.wan.load import load_text_encoder

TEXT_WIDTH = load_text_encoder(PARTS / "t5.pth").config.d_model


def with_the_references_parts(folder: Path) -> None:
    """What both of Wan-AI's folders have beside their networks."""
    shutil.copy(PARTS / "vae.pth", folder / "Wan2.1_VAE.pth")
    shutil.copy(PARTS / "t5.pth", folder / "models_t5_umt5-xxl-enc-bf16.pth")
    toys.text_encoder()[1].save_pretrained(folder / "google" / "umt5-xxl")


def write_i2v(folder: Path) -> None:
    for seed, name in enumerate(("high_noise_model", "low_noise_model")):
        write_expert(folder / name, expert(seed, text_dim=TEXT_WIDTH))
    with_the_references_parts(folder)


def write_s2v(folder: Path) -> None:
    model = toys.s2v_transformer(text_dim=TEXT_WIDTH)
    ours = model.config
    theirs = json.loads((GOLDEN / "s2v_model_a" / "config.json").read_text(encoding="utf-8")) | {
        "dim": ours.num_attention_heads * ours.attention_head_dim,
        "num_heads": ours.num_attention_heads,
        "num_audio_token": ours.num_audio_tokens,
        "num_weighted_avg_layers": ours.num_audio_layers,
        "audio_inject_layers": list(ours.audio_inject_layers),
    }
    same = ("ffn_dim", "freq_dim", "num_layers", "audio_dim", "text_dim")
    names = reference_names(model)
    tensors = {names[name]: weight.detach().clone() for name, weight in model.named_parameters()}
    write_checkpoint(folder, theirs | {name: ours[name] for name in same}, tensors, shard_bytes=20_000)
    with_the_references_parts(folder)
    for part in toys.audio_encoder():
        part.save_pretrained(folder / "wav2vec2-large-xlsr-53-english")


def copy_upscaler(file: Path) -> None:
    shutil.copy(GOLDEN / "realesrgan_x2" / "toy_x2.pth", file)


FOLDERS: dict[str, tuple[str, str | None, Callable[[Path], Any]]] = {
    "text_to_image": ("FLUX.2-klein-9B", "diffusers", lambda folder: toy_flux.pipeline().save_pretrained(folder)),
    "upscale": ("RealESRGAN_x2plus.pth", None, copy_upscaler),
    "image_to_video": ("Wan2.2-I2V-A14B", "Wan-AI", write_i2v),
    "image_to_video, diffusers": (
        "Wan2.2-I2V-A14B",
        "diffusers",
        lambda folder: i2v_pipeline().save_pretrained(folder),
    ),
    "speech_to_video": ("Wan2.2-S2V-14B", "Wan-AI", write_s2v),
    "speech_to_video, diffusers": (
        "Wan2.2-S2V-14B",
        "diffusers",
        lambda folder: toys.s2v_pipeline().save_pretrained(folder),
    ),
}


def request(stage: str, folder: Path) -> Request:
    picture = str(toys.picture(folder / "a.png"))
    clip: dict[str, Any] = {"image": picture, "resolution": "64x64", "num_inference_steps": 2, "seed": 1}
    match stage:
        case "text_to_image":
            return TextToImage(prompt="a person", width=64, height=80, upscale=False, seed=1)
        case "upscale":
            return Upscale(image=picture)
        case "image_to_video":
            return ImageToVideo(**clip, prompt="a person", frame_num=5)
        case _:
            return SpeechToVideo(**clip, audio=str(toys.voice(folder / "v.wav", 0.5)), frames_per_segment=8)


@pytest.mark.parametrize("linked", [False, True], ids=["the folder itself", "a symbolic link"])
@pytest.mark.parametrize("case", FOLDERS)
def test_a_stage_runs_from_it(
    case: str, linked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, layout, write = FOLDERS[case]
    stage = case.partition(",")[0]
    weights, mine = tmp_path / "weights", tmp_path / "mine"
    for folder in (weights, mine):
        folder.mkdir()
    write((mine if linked else weights) / name)
    if linked:
        (weights / name).symlink_to(mine / name)
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(weights))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    asked = request(stage, tmp_path)
    assert asked.profile == "full"
    capsys.readouterr()  # what libraries say when they are imported
    assert main(["weights", "where", name, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["state"], found["layout"], found["missing"]) == ("present", layout, [])
    assert weights_are_there(asked.the_profile(), stage, weights), "so that plans go by these files"
    run = jobs.run_here(asked)
    status = run.status()
    assert status.state == "succeeded", status.error
    assert run.path(status.artifacts[0]).stat().st_size
    assert run.manifest()["facts"]["weights"], "the manifest says which files"


@pytest.mark.parametrize("case", [case for case in FOLDERS if case != "upscale"])
def test_load_gives_the_pipeline_of_the_published_models(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, _, write = FOLDERS[case]
    write(tmp_path / name)
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))
    pipeline = wanavatar_lab.load(case.partition(",")[0], device="cpu")
    assert pipeline.transformer.dtype == pipeline.text_encoder.dtype == torch.bfloat16
