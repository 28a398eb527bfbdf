"""Which part of a clip a sample shows: in space a window about the face, in time a segment as inference makes them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wanavatar_lab.wan.latents import MOTION_FRAMES

# width and height in pixels, by profile: those of which the S2V network makes clips
ASPECTS: dict[str, dict[str, tuple[int, int]]] = {
    "full": {"rec": (832, 480), "square": (512, 512), "vec": (480, 832)},
    "pocket": {"rec": (160, 96), "square": (128, 128), "vec": (96, 160)},
}
LONGEST, SHORTEST = 80, 16  # frames of a segment
STEP = 16  # frames by which segments differ in length: with few lengths, many samples are alike enough for one step


@dataclass(frozen=True)
class Segment:
    """The frames of one sample.

    Attributes:
        start: its first frame; those of the motion before it lie in front.
        frames: how many it has, a multiple of 16, or of 4 where the longest allowed is.
        continued: whether it goes on from motion frames, as all segments of a clip do but the first.
    """

    start: int
    frames: int
    continued: bool


def segments_of(frames: int, longest: int = LONGEST) -> list[Segment]:
    """The segments of a clip: first ones from its beginning and to its end, and one that continues where that fits.

    A clip that is too short for any has none.
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
    """The largest window of the shape of `width` × `height` in a frame, as near to the face's middle as it can lie.

    Args:
        face: where the face is in any frame of the clip, [H, W]; nowhere takes the frame's middle.

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
