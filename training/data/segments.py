"""Which part of a clip a sample is: a window around the face, and a segment of frames as inference generates them.

Inference generates a long clip segment by segment, and each but the first continues from the 73 frames before it. So a
clip gives a first segment, and continuations for the rest of it. What is missing of the 73 frames is grey, at their old
end, as in inference where less has been generated.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wanavatar_lab.errors import LabError

# width and height in pixels, by profile: sizes that the S2V network generates
ASPECTS: dict[str, dict[str, tuple[int, int]]] = {
    "full": {"rec": (832, 480), "square": (512, 512), "vec": (480, 832)},
    "pocket": {"rec": (160, 96), "square": (128, 128), "vec": (96, 160)},
}
LONGEST, SHORTEST = 80, 16  # frames of a segment; 80 is what inference generates at a time
STEP = 16  # frames; lengths are multiples of it, since a micro-batch has one length and few lengths compile few graphs
LEAST_MOTION = 16  # frames of the clip that a continuation continues from, at least: a second


@dataclass(frozen=True)
class Segment:
    """The frames of one sample.

    Attributes:
        start: its first frame, after the motion frames.
        frames: number of frames, a multiple of 16, or the longest that is allowed.
        continued: whether it continues from the frames before it, as all segments of a generated clip but the first.
    """

    start: int
    frames: int
    continued: bool


def segments_of(frames: int, longest: int = LONGEST) -> list[Segment]:
    """The segments of a clip, which together have all of its frames but up to 15 where there is no continuation.

    One is a first segment, at the clip's start. The others are continuations, as long as the clip allows; the last ends
    with the clip. A clip of 32 to 160 frames has one of each.

    Args:
        frames: of the clip; with fewer than 16 it has no segments, with fewer than 32 no continuation.
        longest: frames of a segment, at most.
    """
    length = min(longest, frames // STEP * STEP)
    if length < SHORTEST:
        return []
    found = [Segment(0, length, False)]
    further = min(longest, (frames - LEAST_MOTION) // STEP * STEP)
    if further >= SHORTEST:
        count, last = max(1, math.ceil((frames - length) / further)), frames - further
        # from the end of the first segment to the clip's end, overlapping evenly
        starts = np.linspace(min(length, last), last, count) if count > 1 else [last]
        found += [Segment(round(start), further, True) for start in starts]
    return found


def checked_longest(frames: int) -> int:
    """The longest segment for a number of frames as users of Wan give it: 4n as it is, and 4n + 1 as 4n.

    A Wan VAE encodes the first frame of a video alone. In S2V that frame is the reference or a motion frame, which the
    segment's own frames follow.

    Raises:
        LabError: it is neither, or shorter than the shortest segment.
    """
    if frames < SHORTEST or frames % 4 > 1:
        near = max(SHORTEST, round(frames / 4) * 4)
        raise LabError(f"{frames} frames are not 4n or 4n + 1 from {SHORTEST} on, such as {near} or {near + 1}.")
    return frames // 4 * 4


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
