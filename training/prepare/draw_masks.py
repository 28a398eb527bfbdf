"""Outlines of the face and the lips become masks of 0 and 255, dilated a little.

`training/data/masks.py` downsamples them to the latents.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from wanavatar_lab.metrics.face_masks import Mask, draw_mask
from wanavatar_lab.metrics.landmarks import Face

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
