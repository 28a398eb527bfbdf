"""Faults of a picture that moves: flicker, black frames, frozen stretches."""

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

# FFmpeg's blackdetect calls a frame black by the same two numbers: this share of its pixels is darker than that share
# of full scale
BLACK_PIXELS, BLACK_LEVEL = 0.98, 0.10
CELLS = 16  # a picture is divided into 16×16 cells, so that a small mouth that moves counts
# 8-bit levels by which no cell's mean changes in a frozen picture: codecs refine what stands still by less, and a cell
# with moving lips changes by ten
STILL = 1.0
# shorter stretches are a moment of rest, frames that a converter repeated, or the first frame of a talking clip, which
# is shown for three frames more
FROZEN_SECONDS = 0.3


def flicker(values: ArrayLike) -> NDArray[np.float64]:
    """How far each value of a track [F] is from the mean of its two neighbours, [F - 2].

    A constant trend gives 0, and a value that alternates gives the height of its alternation, from low to high.
    """
    track = np.asarray(values, dtype=np.float64)
    return np.abs(track[1:-1] - (track[:-2] + track[2:]) / 2)


def is_black(luma: NDArray[np.uint8]) -> bool:
    """Whether a picture [H, W] is black."""
    return bool((luma < BLACK_LEVEL * 255).mean() >= BLACK_PIXELS)


def detail(luma: NDArray[np.uint8]) -> float:
    """The mean absolute Laplacian of a picture [H, W], in 8-bit levels: how much fine texture it has."""
    return float(np.abs(cv2.Laplacian(luma, cv2.CV_16S)).mean())


def largest_cell_change(luma: NDArray[np.uint8], before: NDArray[np.uint8]) -> float:
    """The largest mean absolute change in a cell of two pictures [H, W], in 8-bit levels."""
    changed = cv2.absdiff(luma, before).astype(np.float32)
    size = min(CELLS, luma.shape[1]), min(CELLS, luma.shape[0])
    return float(cv2.resize(changed, size, interpolation=cv2.INTER_AREA).max())


def frozen(cell_changes: ArrayLike, fps: float) -> list[tuple[int, int]]:
    """The stretches in which nothing changes: the first frame and the one after the last, which all look the same.

    Args:
        cell_changes: [F - 1], of every frame but the first, see `largest_cell_change`.
        fps: frames per second.
    """
    still = np.asarray(cell_changes, dtype=np.float64) < STILL
    # the frame that a stretch begins with changed itself, and is the one that is then repeated
    return [(start, end + 1) for start, end in stretches(still) if (end + 1 - start) >= FROZEN_SECONDS * fps]


def stretches(flags: Sequence[bool] | NDArray[np.bool_]) -> list[tuple[int, int]]:
    """The stretches of true flags: the first place and the one after the last."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(flags, dtype=np.int8), [0]])))
    return [(int(start), int(end)) for start, end in list(pairwise(edges))[::2]]
