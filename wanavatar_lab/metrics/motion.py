"""How much moves in a clip, and whether its segments join without a jump."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CHUNK = 32  # frames that are compared at a time, to bound the memory


@dataclass(frozen=True)
class Borders:
    """Change of the picture at segment borders, and the usual change from frame to frame, in 8-bit levels.

    Attributes:
        at_borders: mean absolute difference of the first frame of each segment to the frame before it.
        median: the median of these differences over the whole clip.
    """

    at_borders: tuple[float, ...]
    median: float


def frame_differences(frames: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean absolute difference of every frame to the one before it, in 8-bit levels, [F - 1], of [F, H, W, 3]."""
    found: list[float] = []
    for start in range(1, len(frames), _CHUNK):
        later = frames[start : start + _CHUNK].astype(np.int16)
        found += np.abs(later - frames[start - 1 : start - 1 + len(later)]).mean(axis=(1, 2, 3)).tolist()
    return np.asarray(found, dtype=np.float64)


def segment_borders(frames: int, *, first: int = 77, per_segment: int = 80) -> list[int]:
    """The first frame of every segment but the first one: 77, 157, … for Wan2.2-S2V, whose first segment is shorter."""
    return list(range(first, frames, per_segment))


def border_jumps(frames: NDArray[np.uint8], borders: Sequence[int]) -> Borders:
    """Compare the change of a clip [F, H, W, 3] at its segment borders with the usual change.

    Raises:
        ValueError: there are no borders, one is outside of the clip, or most of the clip does not move.
    """
    outside = [border for border in borders if not 0 < border < len(frames)]
    if outside or not borders:
        raise ValueError(f"The borders {list(borders)} are not all within a clip of {len(frames)} frames.")
    differences = frame_differences(frames)
    median = float(np.median(differences))
    if median == 0:
        raise ValueError("Most frames of the clip equal the one before, so no usual difference exists to compare with.")
    return Borders(tuple(float(differences[border - 1]) for border in borders), median)
