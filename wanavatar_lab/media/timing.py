"""Times and frame rates that a caller gives, as exact fractions."""

import math
from fractions import Fraction

from wanavatar_lab.errors import MediaError

MAX_FRAME_RATE = 1000  # frames per second


def frame_rate(fps: float | Fraction) -> Fraction:
    """A frame rate in frames per second as an exact fraction; 29.97 becomes 2997/100.

    Raises:
        MediaError: it is not a number above 0 and at most 1000.
    """
    # the 1001 of NTSC's rates, such as 30000/1001; a rate that is lower than one frame in so many seconds becomes 0
    rate = Fraction(fps).limit_denominator(1001) if math.isfinite(fps) else Fraction(0)
    if not 0 < rate <= MAX_FRAME_RATE:
        raise MediaError(
            f"The frame rate is {fps}; it must be above 0 and at most {MAX_FRAME_RATE} per second, and the lowest that "
            "can be written is one frame in 1001 seconds."
        )
    return rate


def exact_seconds(name: str, value: float) -> Fraction:
    """A time in seconds as an exact fraction.

    Raises:
        MediaError: it is negative or not finite; `name` is how the message calls it.
    """
    if not math.isfinite(value) or value < 0:
        raise MediaError(f"{name} is {value} s; it must be 0 or more.")
    return Fraction(value)
