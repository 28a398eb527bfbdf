"""Which part of a clip a sample is: a window around the face, and a segment of frames as inference generates them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wanavatar_lab.wan.latents import MOTION_FRAMES

# width and height in pixels, by profile: sizes that the S2V network generates
ASPECTS: dict[str, dict[str, tuple[int, int]]] = {
    "full": {"rec": (832, 480), "square": (512, 512), "vec": (480, 832)},
    "pocket": {"rec": (160, 96), "square": (128, 128), "vec": (96, 160)},
}
LONGEST, SHORTEST = 80, 16  # frames of a segment; 80 is what inference generates at a time
STEP = 16  # frames; lengths are multiples of it, since a step needs samples of one length and few lengths give many


@dataclass(frozen=True)
class Segment:
    """The frames of one sample.

    Attributes:
        start: its first frame, after the motion frames.
        frames: number of frames, a multiple of 16, or the longest that is allowed.
        continued: whether motion frames precede it, as in all segments of a generated clip but the first.
    """

    start: int
    frames: int
    continued: bool


def segments_of(frames: int, longest: int = LONGEST) -> list[Segment]:
    """The segments of a clip: first ones at its start and at its end, and a continuation at its end if that fits.

    Args:
        frames: of the clip; with fewer than 16 it has no segments.
        longest: frames of a segment, at most.
    """
    length = min(longest, frames // STEP * STEP)
    if length < SHORTEST:
        return []
    starts = dict.fromkeys((0, frames - length))
    found = [Segment(start, length, False) for start in starts]
    rest = min(longest, (frames - MOTION_FRAMES) // STEP * STEP)
    if rest >= SHORTEST:
        found.append(Segment(frames - rest, rest, True))
    return found


def window_about(face: NDArray[np.bool_], width: int, height: int) -> tuple[int, int, int, int]:
    """The largest window with the aspect of `width` × `height` in a frame, as near to the face's centre as possible.

    Args:
        face: where the face is in any frame of the clip, [H, W]; an empty mask takes the frame's centre.

    Returns:
        left, top, right and bottom in pixels of the frame.
    """
    rows, columns = face.shape
    scale = min(columns / width, rows / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    ys, xs = np.nonzero(face)
    middle = (xs.min() + xs.max() + 1, ys.min() + ys.max() + 1) if len(xs) else (columns, rows)
    left, top = (
        int(np.clip(round(twice / 2 - side / 2), 0, whole - side))
        for twice, side, whole in zip(middle, size, (columns, rows), strict=True)
    )
    return left, top, left + size[0], top + size[1]
