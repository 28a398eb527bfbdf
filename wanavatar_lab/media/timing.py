"""Time in media files: frame rates as exact fractions, and the zero that picture and sound share."""

import math
from fractions import Fraction

from av.container import InputContainer
from av.stream import Stream

from wanavatar_lab.errors import MediaError

MOST_FRAMES_PER_SECOND = 1000


def frame_rate(fps: float | Fraction) -> Fraction:
    """A frame rate in frames per second as an exact fraction; 29.97 becomes 2997/100.

    Raises:
        MediaError: it is not a number above 0 and at most 1000.
    """
    if not math.isfinite(fps) or not 0 < fps <= MOST_FRAMES_PER_SECOND:
        raise MediaError(
            f"The frame rate is {fps}; it must be above 0 and at most {MOST_FRAMES_PER_SECOND} per second."
        )
    rate = Fraction(fps).limit_denominator(1001)
    if rate == 0:
        raise MediaError(f"The frame rate is {fps}; the lowest that can be written is one frame in 1001 seconds.")
    return rate


def seconds_asked(name: str, value: float) -> Fraction:
    """A time in seconds given by a caller, as an exact fraction.

    Raises:
        MediaError: it is negative or not finite; `name` is how the text calls it.
    """
    if not math.isfinite(value) or value < 0:
        raise MediaError(f"{name} is {value} s; it must be 0 or more.")
    return Fraction(value)


def sound_and_picture(container: InputContainer) -> list[Stream]:
    """The audio and video streams of a file, without cover art."""
    return [
        stream
        for stream in container.streams
        if stream.type in ("audio", "video") and not stream.disposition & stream.disposition.attached_pic
    ]


def zero_time(container: InputContainer) -> Fraction:
    """The file's own time, in seconds, that counts as 0: the earliest start among picture and sound.

    A start below 0 is an encoder's run-in, which decoders drop, and does not move the zero.
    """
    starts = [
        stream.start_time * stream.time_base
        for stream in sound_and_picture(container)
        if stream.start_time is not None and stream.time_base is not None
    ]
    return max(Fraction(0), min(starts, default=Fraction(0)))


def declared_end(container: InputContainer) -> Fraction | None:
    """Where the header says the last stream ends, in the file's own time in seconds; None where it says nothing."""
    ends = [
        (max(0, stream.start_time or 0) + stream.duration) * stream.time_base
        for stream in sound_and_picture(container)
        if stream.duration is not None and stream.time_base is not None
    ]
    if ends:
        return max(ends)
    if container.duration is None:
        return None
    return Fraction(max(0, container.start_time or 0) + container.duration, 1_000_000)
