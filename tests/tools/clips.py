"""Recordings and videos to work on: every sample and every frame says where it is."""

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wanavatar_lab.media import Audio, VideoWriter, write_audio

SIZE = 64


def ramp(count: int, channels: int = 1) -> NDArray[np.float32]:
    """Samples `[count, channels]`, exact in 16 bits, from which each one's place can be told."""
    places = np.arange(count)[:, None] * np.array([1, -1, 2, -2, 3, -3, 4, -4])[:channels]
    return ((places % 60_000 - 30_000) / 32_768).astype(np.float32)


def sound(path: Path, count: int, rate: int, channels: int = 1) -> Path:
    """A recording of so many samples of `ramp`."""
    write_audio(path, Audio(ramp(count, channels), rate))
    return path


def frame(number: int, size: tuple[int, int] = (SIZE, SIZE)) -> NDArray[np.uint8]:
    """A frame with its number, up to 255, as its grey."""
    return np.full((size[1], size[0], 3), number, np.uint8)


def video(
    path: Path,
    count: int,
    fps: float | Fraction = 16,
    *,
    tone: float | None = None,
    size: tuple[int, int] = (SIZE, SIZE),
    step: int = 4,
    rate: int = 48_000,
) -> Path:
    """A video whose frame k is `frame(k * step)`, with a tone of this frequency in Hz as long as it lasts."""
    audio = None
    if tone is not None:
        times = np.arange(round(count / Fraction(fps) * rate)) / rate
        audio = Audio((0.3 * np.sin(2 * np.pi * tone * times)).astype(np.float32)[:, None], rate)
    with VideoWriter(path, fps=fps, audio=audio) as writer:
        for number in range(count):
            writer.write(frame(number * step, size))
    return path


def greys(path: Path) -> list[float]:
    """The mean grey of each frame."""
    from wanavatar_lab.media import read_frames

    return [float(each.mean()) for each in read_frames(path)]
