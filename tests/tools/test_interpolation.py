"""Frames between frames: what moves is halfway, and the clip stays as long as it was, with its sound."""

from fractions import Fraction
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.tools.clips import greys, video
from wanavatar_lab import tools
from wanavatar_lab.errors import MediaError
from wanavatar_lab.media import VideoWriter, probe, read_audio, read_frames

WIDTH, STEP = 128, 8


def moving(place: float) -> NDArray[np.uint8]:
    """A textured square that has moved so many pixels."""
    rows, columns = np.mgrid[:WIDTH, :WIDTH].astype(float)
    columns -= place
    inside = (columns > 16) & (columns < 64) & (rows > 40) & (rows < 88)
    texture = 140 + 60 * np.sin(columns / 3) * np.sin(rows / 4)
    return np.repeat(np.where(inside, texture, 30.0)[:, :, None], 3, axis=2).astype(np.uint8)


def psnr(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / np.mean((one.astype(float) - other) ** 2)))


def test_what_moves_is_halfway_and_not_faded(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.mp4", fps=8) as writer:
        for number in range(7):
            writer.write(moving(number * STEP))
    quality = {}
    for method in ("motion", "blend"):
        made = tools.interpolate_frames(tmp_path / "a.mp4", tmp_path / "b.mp4", fps=16, method=method)
        assert (made.fps, made.frames) == (16.0, 14)
        frames = list(read_frames(tmp_path / "b.mp4"))
        # the first and last gap aside, where the filter has seen no frame before or after
        quality[method] = np.mean([psnr(frames[number], moving(number * STEP / 2)) for number in range(3, 10, 2)])
        assert min(psnr(frames[number], moving(number * STEP / 2)) for number in range(2, 10, 2)) > 30
    assert quality["motion"] > quality["blend"] + 4


@pytest.mark.parametrize("fps", [25.0, 30.0, 29.97])
def test_the_clip_stays_as_long_with_its_sound(tmp_path: Path, fps: float) -> None:
    path = video(tmp_path / "a.mp4", 33, 16, tone=440)
    made = tools.interpolate_frames(path, tmp_path / "b.mp4", fps=fps)
    assert made.fps == pytest.approx(fps, rel=1e-4)
    assert 33 / 16 <= (made.frames or 0) / fps < 33 / 16 + 1 / fps
    heard, before = read_audio(tmp_path / "b.mp4"), read_audio(path)
    assert heard.seconds >= before.seconds - 0.001
    assert np.abs(heard.samples[:40_000] - before.samples[:40_000]).max() < 0.1


@pytest.mark.parametrize("method", ["motion", "blend"])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_the_last_frame_is_shown_and_reached_evenly(
    tmp_path: Path, count: int, method: Literal["motion", "blend"]
) -> None:
    path = video(tmp_path / "a.mp4", count, 16, step=20)
    tools.interpolate_frames(path, tmp_path / "b.mp4", fps=32, method=method)
    last = 20 * (count - 1)
    assert greys(tmp_path / "b.mp4") == pytest.approx([*range(0, last + 1, 10), last], abs=2)


def test_a_clip_of_one_frame_is_held(tmp_path: Path) -> None:
    made = tools.interpolate_frames(video(tmp_path / "a.mp4", 1, 16), tmp_path / "b.mp4", fps=32)
    assert made.frames == 2


def test_a_camera_that_misses_its_rate_by_a_little_is_brought_to_it(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", 30, Fraction(30_003, 1000), step=8)
    made = tools.interpolate_frames(path, tmp_path / "b.mp4", fps=30)
    assert (made.fps, made.frames) == (30.0, 30)
    assert greys(tmp_path / "b.mp4") == pytest.approx(greys(path), abs=2)
    with pytest.raises(MediaError, match=r"has 30\.003 frames per second, and 29\.97 are fewer.*Give 30\.003 or more"):
        tools.interpolate_frames(path, tmp_path / "c.mp4", fps=29.97)


def test_fewer_frames_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="has 30 frames per second, and 25 are fewer"):
        tools.interpolate_frames(video(tmp_path / "a.mp4", 4, 30), tmp_path / "b.mp4", fps=25)
    assert not (tmp_path / "b.mp4").exists() and probe(tmp_path / "a.mp4").frames == 4


def test_frames_that_are_too_small_for_motion_are_refused(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", 5, size=(64, 30))
    with pytest.raises(MediaError, match="has 64×30 pixels, and motion is followed in 32×32 or more"):
        tools.interpolate_frames(path, tmp_path / "b.mp4")
    assert tools.interpolate_frames(path, tmp_path / "b.mp4", method="blend").height == 30
