"""Outlines of faces and lips become masks of 0 and 255, a little larger than the outline.

`training/data/masks.py` brings these to the latents.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.prepare.landmarks import Face

Mask = NDArray[np.uint8]
# What a frame without a face gets: a black mask and a mark that it is invalid, or what the predecessor gave it, the
# mask of the frame before and at the beginning a white one.
Missing = Literal["invalid", "previous"]


@dataclass(frozen=True)
class Dilation:
    """By how much masks are larger than the outlines, at every side, as shares of the face's width."""

    face: float = 0.02
    lips: float = 0.02


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of a frame, 0 or 255, [H, W] each, and whether a loss may use them."""

    face: Mask
    lips: Mask
    valid: bool


class MaskMaker:
    """Makes the masks of frame after frame.

    Args:
        size: (height, width) of the frames.
        dilation: by how much the masks are larger than the outlines.
        missing: what a frame without a face gets.
    """

    def __init__(self, size: tuple[int, int], dilation: Dilation, missing: Missing) -> None:
        self._size, self._dilation = size, dilation
        nothing = np.full(size, 255 if missing == "previous" else 0, np.uint8)
        self._without = Masks(nothing, nothing, missing == "previous")
        self._missing = missing

    def of(self, face: Face | None) -> Masks:
        """The masks of the next frame."""
        if face is None:
            return self._without
        made = Masks(
            drawn(face.oval, self._size, self._dilation.face * face.width),
            drawn(face.lips_outer, self._size, self._dilation.lips * face.width),
            True,
        )
        if self._missing == "previous":
            self._without = made
        return made


def drawn(outline: ArrayLike, size: tuple[int, int], radius: float = 0.0) -> Mask:
    """A mask of the pixels whose middle is inside an outline or, by the pixel grid, within `radius` of one that is.

    Args:
        outline: [K, 2], pixels (x, y); where it runs over itself, what is wound around counts as inside.
        size: (height, width).
        radius: pixels.

    Returns:
        0 or 255, uint8 [H, W].
    """
    return np.where(dilated(filled(outline, size), radius), np.uint8(255), np.uint8(0))


def filled(outline: ArrayLike, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Of which pixels the middle is inside a closed outline [K, 2], by its winding number, bool [H, W]."""
    height, width = size
    x, y = np.asarray(outline, dtype=np.float64).T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    middles = np.arange(height)[:, None] + 0.5
    # an edge crosses a row's middle if it has one end above it and the other one at or below it
    down, up = (y <= middles) & (next_y > middles), (next_y <= middles) & (y > middles)
    rows, edges = np.nonzero(down | up)
    along = (rows + 0.5 - y[edges]) / (next_y[edges] - y[edges])
    crossing = x[edges] + along * (next_x[edges] - x[edges])
    # pixels whose middle lies to the right of the crossing are wound around once more, or once less
    columns = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
    turns = np.zeros((height, width + 1), np.int32)
    np.add.at(turns, (rows, columns), np.where(down[rows, edges], 1, -1))
    return np.cumsum(turns, axis=1)[:, :width] != 0


def dilated(mask: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Which pixels are within `radius` pixels, from middle to middle, of one in the mask, bool [H, W]."""
    reach = int(radius)
    if reach < 1 or not mask.any():
        return mask
    height, width = mask.shape
    inside_rows, inside_columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, bottom = max(0, inside_rows[0] - reach), min(height, inside_rows[-1] + reach + 1)
    left, right = max(0, inside_columns[0] - reach), min(width, inside_columns[-1] + reach + 1)
    # what lies around the mask is all that can change
    part = np.pad(mask[top:bottom, left:right], reach)
    counted = np.cumsum(np.pad(part, ((0, 0), (1, 0))), axis=1, dtype=np.int32)
    rows, columns = bottom - top, right - left
    grown = np.zeros((rows, columns), np.bool_)
    for step in range(-reach, reach + 1):
        half = int(np.sqrt(radius * radius - step * step))
        near = counted[reach + step : reach + step + rows]
        first = reach - half
        grown |= near[:, first + 2 * half + 1 : first + 2 * half + 1 + columns] > near[:, first : first + columns]
    whole = mask.copy()
    whole[top:bottom, left:right] |= grown
    return whole
