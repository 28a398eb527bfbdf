"""Outlines of the face and the lips become masks of 0 and 255, dilated a little.

`training/data/masks.py` downsamples them to the latents.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from wanavatar_lab.metrics.landmarks import Face

Mask = NDArray[np.uint8]
# Of a frame without a face: a black mask that is marked as invalid, or what the predecessor gave it, the mask of the
# frame before and at the beginning a white one.
Missing = Literal["invalid", "previous"]


@dataclass(frozen=True)
class Dilation:
    """How far masks extend beyond the outlines, as a share of the face's width."""

    face: float = 0.02
    lips: float = 0.02


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of a frame, 0 or 255, [H, W] each, and whether the loss may use them."""

    face: Mask
    lips: Mask
    valid: bool


class MaskMaker:
    """Draws the masks of successive frames.

    Args:
        size: (height, width) of the frames.
        dilation: how far masks extend beyond the outlines.
        missing: mask of a frame without a face.
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
            draw_mask(face.oval, self._size, self._dilation.face * face.width),
            draw_mask(face.lips_outer, self._size, self._dilation.lips * face.width),
            True,
        )
        if self._missing == "previous":
            self._without = made
        return made


def draw_mask(outline: ArrayLike, size: tuple[int, int], radius: float = 0.0) -> Mask:
    """The pixels whose centre is inside an outline, dilated by a disc.

    Args:
        outline: [K, 2], pixels (x, y); regions that it winds around more than once count as inside.
        size: (height, width).
        radius: of the disc, pixels.

    Returns:
        0 or 255, uint8 [H, W].
    """
    return dilate(fill_polygon(outline, size), radius)


def fill_polygon(outline: ArrayLike, size: tuple[int, int]) -> Mask:
    """The pixels whose centre is inside a closed outline [K, 2], by its winding number: 0 or 255, uint8 [H, W].

    Not cv2.fillPoly, which also paints every pixel that the outline touches: 8 % too much of a disc 24 pixels wide, and
    more of lips; nor does it fill a region that is wound around twice.
    """
    height, width = size
    x, y = np.asarray(outline, dtype=np.float64).T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    centres = np.arange(height)[:, None] + 0.5
    # an edge crosses the centre line of a row if one end is above it and the other at or below it
    down, up = (y <= centres) & (next_y > centres), (next_y <= centres) & (y > centres)
    rows, edges = np.nonzero(down | up)
    along = (rows + 0.5 - y[edges]) / (next_y[edges] - y[edges])
    crossing = x[edges] + along * (next_x[edges] - x[edges])
    # for pixels whose centre is to the right of the crossing, the winding number goes up or down by one
    columns = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
    turns = np.zeros((height, width + 1), np.int32)
    np.add.at(turns, (rows, columns), np.where(down[rows, edges], 1, -1))
    return np.where(np.cumsum(turns, axis=1)[:, :width] != 0, np.uint8(255), np.uint8(0))


def dilate(mask: Mask, radius: float) -> Mask:
    """The pixels within `radius` pixels, centre to centre, of one in the mask, [H, W]."""
    reach = int(radius)
    rows, columns = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = (rows**2 + columns**2 <= radius**2).astype(np.uint8)
    # only around the mask: over all of a 4K frame, a disc of 20 pixels takes 0.15 s
    left, top, width, height = cv2.boundingRect(mask)
    part = np.s_[max(0, top - reach) : top + height + reach, max(0, left - reach) : left + width + reach]
    dilated = mask.copy()
    if width:
        dilated[part] = cv2.dilate(mask[part], disc)
    return dilated
