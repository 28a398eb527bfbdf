"""The outline of a recording: a few hundred numbers, as many as a drawing of it has columns."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wanavatar_lab.errors import MediaError
from wanavatar_lab.media.audio import check_finite
from wanavatar_lab.media.audio_reader import sound_blocks
from wanavatar_lab.settings import read_settings

_FINEST = 0.01  # seconds that one number stands for at least, while the length is not known yet


@dataclass(frozen=True)
class Peaks:
    """The largest level in each of equal parts of a recording.

    Attributes:
        levels: 0 to 1, where 1 is full scale; the loudest channel counts.
        duration: seconds of the whole.
    """

    levels: list[float]
    duration: float


def read_peaks(path: Path | str, count: int = 400) -> Peaks:
    """Go through the sound of an audio or video file, without holding it in memory.

    Args:
        count: numbers at most; a recording of less than `count` hundredths of a second has fewer.

    Raises:
        MediaError: as `read_audio`.
    """
    if count < 1:
        raise MediaError(f"{count} peaks were asked for; ask for 1 or more.")
    settings = read_settings()
    fine: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = []
    with sound_blocks(path, settings) as (rate, blocks):
        part = max(1, round(rate * _FINEST))
        rest, total = np.zeros(0, np.float32), 0
        for block in blocks:
            check_finite(f"{path}", block.samples)
            total += len(block.samples)
            rest = np.concatenate((rest, np.abs(block.samples).max(axis=1)))
            whole = len(rest) // part * part
            fine.append(rest[:whole].reshape(-1, part).max(axis=1))
            rest = rest[whole:]
    if len(rest):
        fine.append(rest.max(keepdims=True))
    levels = np.concatenate(fine) if fine else rest
    if not len(levels):
        raise MediaError(f"{path} has no sound. Give another file.")
    # the first of each of `count` equal parts; every part has one where there are more levels than parts
    edges = np.unique(np.arange(min(count, len(levels))) * len(levels) // min(count, len(levels)))
    coarse = np.minimum(np.maximum.reduceat(levels, edges), 1.0)
    return Peaks([round(float(level), 3) for level in coarse], total / rate)
