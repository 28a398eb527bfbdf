"""Clips longer than a segment: how they are cut, joined, counted and cancelled."""

import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import toys
from tests.stages.test_image_to_video import models, place, request, weights
from wanavatar_lab import media
from wanavatar_lab.errors import Cancelled, DiskFull
from wanavatar_lab.memory import workload_of
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import ImageToVideo, RequestError
from wanavatar_lab.runs.ranks import Ranks
from wanavatar_lab.stages import image_to_video
from wanavatar_lab.stages.context import StageContext, Step
from wanavatar_lab.stages.image_to_video import MAX_SHIFT, joined
from wanavatar_lab.wan.latents import picture_to_pixels, to_host

__all__ = ["models", "place", "weights"]  # fixtures

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The frames of all clips as they are given to the file, before it compresses them."""
    frames: list[np.ndarray] = []
    write = media.VideoWriter.write

    def note(self: media.VideoWriter, frame: np.ndarray) -> None:
        frames.append(frame.copy())
        write(self, frame)

    monkeypatch.setattr(media.VideoWriter, "write", note)
    return frames


def clip(made: ImageToVideo, models: image_to_video.Models, folder: Path, seed: int = 1) -> tuple[Path, list[Step]]:
    folder.mkdir()
    steps: list[Step] = []
    (artifact,) = image_to_video.run(made, models, StageContext(folder, seed, steps.append))
    return folder / artifact.path, steps


@pytest.mark.parametrize(
    ("frame_num", "segment_frames", "lengths"),
    [
        (81, 81, (81,)),
        (5, 81, (5,)),
        (161, 81, (81, 81)),
        (85, 81, (45, 41)),
        (241, 81, (81, 81, 81)),
        (21, 9, (9, 9, 5)),
        (17, 5, (5, 5, 5, 5)),
    ],
)
def test_segments_are_few_and_alike(frame_num: int, segment_frames: int, lengths: tuple[int, ...]) -> None:
    made = ImageToVideo(image="a.png", frame_num=frame_num, segment_frames=segment_frames)
    assert made.segments() == lengths
    assert sum(lengths) - (len(lengths) - 1) == frame_num
    work = workload_of(made, (480, 832))
    assert (work.frames, work.segments) == (lengths[0], len(lengths)), "memory goes by the segment"


def test_the_profile_says_what_its_model_was_made_for() -> None:
    assert ImageToVideo(image="a.png").segment_frames == 81
    pocket = ImageToVideo(image="a.png", profile="pocket")
    assert pocket.segment_frames == pocket.frame_num == 49
    with pytest.raises(RequestError, match=r"segment_frames: must be an integer from 5 to 161, in steps of 4"):
        ImageToVideo(image="a.png", segment_frames=80)


def test_three_segments_are_one_clip(place: Path, models: image_to_video.Models, written: list[np.ndarray]) -> None:
    long = request(place, frame_num=25, segment_frames=9, num_inference_steps=2)
    seeds: list[int] = []
    encoded: list[int] = []
    encode, prepare = models.pipeline.encode_prompt, models.pipeline.prepare_latents

    def encode_prompt(*given: Any, **named: Any) -> Any:
        # the pipeline asks again with what it was given, which encodes nothing
        encoded.append(named.get("prompt_embeds") is None)
        return encode(*given, **named)

    def prepare_latents(*given: Any, **named: Any) -> Any:
        seeds.extend(one.initial_seed() for one in given if isinstance(one, torch.Generator))
        return prepare(*given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models.pipeline, "encode_prompt", encode_prompt)
        patch.setattr(models.pipeline, "prepare_latents", prepare_latents)
        path, steps = clip(long, models, place / "long", seed=7)
    assert (seeds, sum(encoded)) == ([7, 8, 9], 1)
    assert media.probe(path).frames == len(written) == 25
    # nine frames are three latent frames, which are decoded one by one
    phases = [("denoise", step, 2) for step in range(3)] + [("decode", step, 3) for step in range(4)]
    assert [(s.phase, s.step, s.steps, s.segment, s.segments) for s in steps] == [
        (*phase, segment, 3) for segment in (1, 2, 3) for phase in phases
    ]
    again, _ = clip(long, models, place / "again", seed=7)
    assert path.read_bytes() == again.read_bytes()
    first = written[:25]
    del written[:]
    _, steps = clip(request(place, frame_num=9, num_inference_steps=2), models, place / "short", seed=7)
    assert np.array_equal(first[:9], written), "the first segment is the clip that it would be alone"
    assert {(step.segment, step.segments) for step in steps} == {(None, None)}


def test_the_last_segment_is_given_the_last_frame(
    place: Path, models: image_to_video.Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[torch.Tensor] = []
    given: list[torch.Tensor | None] = []
    prepare = models.pipeline.prepare_latents

    def prepare_latents(*arguments: Any) -> Any:
        made = prepare(*arguments)
        given.append(arguments[-1])
        masks.append(made[1][0, :4].mean(dim=(2, 3)))
        return made

    monkeypatch.setattr(models.pipeline, "prepare_latents", prepare_latents)
    end = toys.picture(place / "end.png", (128, 64))
    long = request(place, last_image=str(end), frame_num=17, segment_frames=9, num_inference_steps=2)
    path, _ = clip(long, models, place / "ended")
    expected = picture_to_pixels(Image.open(end), 64, 64, Image.Resampling.LANCZOS)[:, :, 0]
    assert given[0] is None and given[1] is not None and torch.allclose(given[1], expected, atol=1e-6)
    # a latent frame has four of the clip's, and the first one of them four times
    assert masks[0].T.flatten().tolist() == [1] * 4 + [0] * 8
    assert masks[1].T.flatten().tolist() == [1] * 4 + [0] * 7 + [1]
    assert "50% of last_image (128x64) is cut off" in (place / "ended" / "log.txt").read_text()
    open_end, _ = clip(long.changed(last_image=None), models, place / "open")
    frames = [np.stack(list(media.read_frames(each))) for each in (path, open_end)]
    assert len(frames[0]) == 17 and np.array_equal(frames[0][:8], frames[1][:8])
    assert not np.array_equal(frames[0][9:], frames[1][9:])


def test_cancel_takes_effect_within_a_step_of_a_later_segment(place: Path, models: image_to_video.Models) -> None:
    folder = place / "cancelled"
    folder.mkdir()
    seen: list[Step] = []

    def on_step(step: Step) -> None:
        seen.append(step)
        if (step.segment, step.phase, step.step) == (2, "denoise", 1):
            (folder / "cancel").touch()

    made = request(place, frame_num=25, segment_frames=9)
    with pytest.raises(Cancelled):
        image_to_video.run(made, models, StageContext(folder, 1, on_step))
    assert (seen[-1].segment, seen[-1].step) == (2, 1)
    assert not (folder / image_to_video.FILE).exists()
    # nine frames of the first segment are finished
    assert media.keep_partial(folder / ".moving.partial.mp4", folder / "moving.partial.mp4") == 9 / 16
    assert media.probe(folder / "moving.partial.mp4").frames == 9


def test_a_segment_is_written_while_the_next_is_denoised(
    place: Path, models: image_to_video.Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    second, write = threading.Event(), media.VideoWriter.write

    def on_step(step: Step) -> None:
        if (step.segment, step.step) == (2, 1):
            second.set()

    def wait(writer: media.VideoWriter, frame: np.ndarray) -> None:
        assert second.wait(60), "the second segment is not denoised before the first is written"
        write(writer, frame)

    monkeypatch.setattr(media.VideoWriter, "write", wait)
    made = request(place, frame_num=17, segment_frames=9, num_inference_steps=2)
    (artifact,) = image_to_video.run(made, models, StageContext(place, 1, on_step))
    assert media.probe(place / artifact.path).frames == 17


def test_a_disk_that_is_full_ends_the_run_in_the_next_segment(
    place: Path, models: image_to_video.Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Step] = []
    write, written = media.VideoWriter.write, list[int]()

    def fill(writer: media.VideoWriter, frame: np.ndarray) -> None:
        if len(written) == 11:
            raise DiskFull("There is no room for moving.mp4.")
        written.append(1)
        write(writer, frame)

    monkeypatch.setattr(media.VideoWriter, "write", fill)
    made = request(place, frame_num=33, segment_frames=9, num_inference_steps=2)
    with pytest.raises(DiskFull, match=r"no room for moving\.mp4"):
        image_to_video.run(made, models, StageContext(place, 1, seen.append))
    assert max(step.segment or 0 for step in seen) <= 3, "of four segments the second cannot be written"
    assert media.keep_partial(place / ".moving.partial.mp4", place / "moving.partial.mp4") == 11 / 16


@pytest.mark.slow
def test_the_trained_toy_goes_on_without_a_jump(
    tmp_path: Path, written: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(ROOT / "weights"))
    models = image_to_video.load(PROFILES["pocket"], "cpu")
    image = str(ROOT / "data/samples/avatar_woman.png")
    prompt = "she turns her head to the left"
    made = ImageToVideo(profile="pocket", image=image, prompt=prompt, frame_num=97, num_inference_steps=4)
    clip(made, models, tmp_path / "long", seed=3)
    frames = np.stack(written).astype(np.float64)
    changes = np.abs(np.diff(frames, axis=0)).mean(axis=(1, 2, 3))
    joint = made.segments()[0] - 1
    assert 0 < changes[joint] <= np.delete(changes, joint).max()
    picture = np.array(Image.open(image).convert("RGB").resize((128, 128))).astype(np.float64)
    drift = [np.abs((frames[end] - picture).mean(axis=(0, 1))).max() for end in (joint, -1)]
    assert drift[1] < drift[0], "the second segment comes back towards the picture's colours"


def test_colours_begin_as_they_were_and_come_back_little_by_little() -> None:
    first = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
    before = first + 0.02  # what an earlier segment drifted by
    frames = (first * 0.95 + torch.tensor([0.0, 0.02, 0.03]).view(1, 3, 1, 1))[:, :, None].repeat(1, 1, 9, 1, 1)
    made = joined(frames, before, first)
    assert made.shape == (1, 3, 8, 16, 16)
    assert (made[:, :, 0] - before).abs().mean() < 0.01
    torch.testing.assert_close(made[:, :, -1], first, atol=1e-4, rtol=0)
    steps = made.diff(dim=2).abs().amax()
    assert steps < 0.02, "nothing jumps"


def test_what_a_prompt_changes_is_left() -> None:
    first = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.5
    frames = torch.stack([first - 0.05 * index for index in range(9)], dim=2)  # the light goes out
    made = joined(frames, first, first)
    assert (made[:, :, -1] - frames[:, :, -1]).mean() == pytest.approx(MAX_SHIFT, abs=1e-3)


def test_a_segment_is_not_in_memory_while_the_next_is_made(
    place: Path, models: image_to_video.Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, there = list["weakref.ref[torch.Tensor]"](), list[int]()

    def note(decoded: torch.Tensor) -> torch.Tensor:
        frames = to_host(decoded)
        made.append(weakref.ref(frames))
        return frames

    monkeypatch.setattr(image_to_video, "to_host", note)
    counted = models.pipeline.transformer.register_forward_pre_hook(
        lambda *_: there.append(sum(frames() is not None for frames in made))
    )
    # by a process that writes nothing, so that no writer has them either
    long = request(place, frame_num=17, segment_frames=9, attention="sdpa")
    image_to_video.run(long, models, StageContext(place, seed=1, ranks=Ranks(1, 1)))
    counted.remove()
    assert len(made) == 2 and len(there) > 2 and not any(there)
