"""Sample clips: held-out speech with its sound, before and after, as files and in TensorBoard."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import (  # type: ignore[import-untyped]
    AUDIO,
    IMAGES,
    EventAccumulator,
)

from tests.training.test_encode import write_clip
from training.config import TrainingConfig
from training.config.recipes import pocket
from training.data.samples import NO_TEXT, Samples
from training.encode import Encoders, encode
from training.loop import sample_clips, validate
from training.loop.run_folder import best_metric, read_metrics, read_scores
from training.loop.run_log import Log
from training.loop.sample_clips import SampleClips
from training.model.adapter import add_adapter
from training.prepare.clip_folder import read_clip
from training.train import network_of, train
from wanavatar_lab.errors import LabError
from wanavatar_lab.media import probe
from wanavatar_lab.metrics.evaluate import evaluate
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.s2v.pipeline import denoise_segment


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    clips = [read_clip(write_clip(folder / f"video_00{i}", 16, i)) for i in range(2)]
    encode(clips[:1], clips[1:], folder / "samples", Encoders.load("pocket", "cpu"), {"square": (64, 64)}, "a person")
    return folder / "samples"


def made(samples: Path, run: Path, log: Log) -> SampleClips:
    config = TrainingConfig(
        **pocket() | {"samples": samples, "run": run, "sample_every_n_steps": 1, "num_inference_steps": 2}
    )
    return SampleClips(config, Samples(samples, held_out=True), Accelerator(cpu=True), log)


def test_a_clip_has_picture_and_sound_and_moves_in_tensorboard(samples: Path, tmp_path: Path) -> None:
    log = Log(tmp_path, 0)
    clips = made(samples, tmp_path, log)
    (clip,) = clips.make(network_of("pocket"), 3)
    assert clips.is_made(3) and not clips.is_made(2)
    log.close()
    assert clip.name.startswith("000003-video_001-square-")
    (true,) = (tmp_path / "clips").glob("true-*.mp4")
    for file in (clip, true):
        info = probe(file)
        assert (info.width, info.height, info.frames) == (64, 64, 16) and info.audio_rate is not None
    board = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={IMAGES: 0, AUDIO: 0})
    board.Reload()
    (line,) = read_metrics(tmp_path, "samples")
    assert set(line) >= {"true_lip_r", "lip_r", "lip_lag", "lip_lag_ms"} and line["lip_r"] == found_in(clip)
    assert line["true_lip_r"] == found_in(true) and line["lip_lag_ms"] == 1000 * line["lip_lag"] / 16
    assert [each.value for each in board.Scalars("samples/lip_r")] == [pytest.approx(line["lip_r"])]
    (masks,) = board.Images("masks/0")
    assert (masks.width, masks.height) == (4 * 64, 64)
    (image,), (sound,) = board.Images("clips/0"), board.Audio("clips/0/sound")
    assert (image.step, image.width, image.height) == (3, 64, 64) and image.encoded_image_string[:4] == b"GIF8"
    assert sound.sample_rate == 16_000


def found_in(clip: Path) -> float | None:
    return evaluate(clip, faces="pocket").measures()["lip_r"]


def test_clips_are_made_again_whose_measures_were_lost_with_the_process(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log(tmp_path, 0)
    clips, network = made(samples, tmp_path, log), network_of("pocket")

    def killed(*_: object, **__: object) -> None:
        if list((tmp_path / "clips").glob("000003-*.mp4")):
            raise KeyboardInterrupt
        raise LabError("There is no face.")

    with monkeypatch.context() as patch:
        patch.setattr(sample_clips, "evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            clips.make(network, 3)
        assert not clips.is_made(3), "its checkpoint would have no score"
    clips.make(network, 3)
    log.close()
    assert clips.is_made(3) and read_scores(tmp_path, "samples/lip_r").keys() == {3}


def test_the_same_step_gives_the_same_clip(samples: Path, tmp_path: Path) -> None:
    network, shown = network_of("pocket"), []
    for name in ("one", "other"):
        log = Log(tmp_path / name, 0)
        log.show_clip = lambda _name, _step, frames, *_: shown.append(frames)  # type: ignore[method-assign]
        made(samples, tmp_path / name, log).make(network, 0)
        log.close()
    assert np.array_equal(*shown) and shown[0].std() > 1


def test_it_is_what_a_request_makes(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request, network = SpeechToVideo(profile="pocket", image="a.png", audio="a.wav"), network_of("pocket")
    ups = add_adapter(network, 2, 2.0, seed=0)[1::2]
    for up in ups:
        torch.nn.init.normal_(up)
    own, told, during = [up.detach().clone() for up in ups], dict[str, Any](), list[torch.Tensor]()

    def denoising(network: Any, scheduler: Any, latents: torch.Tensor, **given: Any) -> torch.Tensor | None:
        told.update(given, shift=scheduler.config.flow_shift)
        during.extend(up.detach().clone() for up in ups)
        return denoise_segment(network, scheduler, latents, **given)

    monkeypatch.setattr(sample_clips, "denoise_segment", denoising)
    log = Log(tmp_path, 0)
    made(samples, tmp_path, log).make(network, 0)
    log.close()
    assert told["shift"] == request.the_flow_shift() == 3.0
    assert told["guidance_scale"] == request.guidance_scale > 1
    negative = Encoders.load("pocket", "cpu").pipeline.encode_prompt(request.negative_prompt)
    assert torch.equal(told["prompt_embeds"][1], negative)
    assert all(torch.equal(now, 0.5 * up) for now, up in zip(during, own, strict=True))
    assert all(torch.equal(now, up) for now, up in zip(ups, own, strict=True))


def test_a_folder_without_the_negative_prompt_is_read_and_said(
    samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    older = shutil.copytree(samples, tmp_path / "samples")
    save_file({"text": load_file(older / NO_TEXT)["text"]}, older / NO_TEXT)
    log = Log(tmp_path, 0)
    clips = made(older, tmp_path, log)
    assert "has no negative prompt, so the empty one is used" in capsys.readouterr().out
    assert len(clips.make(network_of("pocket"), 0)) == 1
    log.close()


def test_what_is_lacking_is_said(samples: Path, tmp_path: Path) -> None:
    log = Log(tmp_path, 0)
    with pytest.raises(LabError, match="need a held-out clip"):
        config = TrainingConfig(**pocket() | {"samples": samples, "run": tmp_path})
        nothing = Samples(samples)
        nothing.entries.clear()
        SampleClips(config, nothing, Accelerator(cpu=True), log)
    (sound,) = samples.glob("*.wav")
    kept = sound.read_bytes()
    sound.unlink()
    try:
        with pytest.raises(LabError, match="the sound of a sample clip"):
            made(samples, tmp_path, log)
    finally:
        sound.write_bytes(kept)
        log.close()


def test_the_last_clip_is_made_up_for_where_a_kill_prevented_it(
    samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(validate, "LEVELS", 1)  # validated it is too, which is not what this is about
    told = pocket() | {
        "samples": samples,
        "run": tmp_path,
        "sample_every_n_steps": 5,
        "num_inference_steps": 2,
        "max_train_steps": 1,
    }

    def trained() -> Path:
        train(TrainingConfig(**told))
        first, last, _ = sorted((tmp_path / "clips").iterdir())
        assert (first.name[:7], last.name[:7]) == ("000000-", "000001-")
        return last

    last = trained()
    # what the best checkpoint is chosen by
    assert [*read_scores(tmp_path, "samples/lip_r")] == [0, 1]
    assert best_metric(tmp_path, "auto") == ("samples/lip_r", True)
    before = last.stat().st_mtime_ns
    assert trained().stat().st_mtime_ns == before, "it is not made twice"
    last.unlink()
    assert trained().is_file()
