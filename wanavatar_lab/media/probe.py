"""What is in a media file: its kind, size, frames and length."""

import json
import math
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import ArrayLike, NDArray

from wanavatar_lab.errors import MediaError
from wanavatar_lab.media.audio import check_file_rate
from wanavatar_lab.media.audio_reader import read_audio
from wanavatar_lab.media.container import Source, reading
from wanavatar_lab.media.hdr import hdr_of
from wanavatar_lab.media.pictures import animation, is_picture, picture_texts, read_picture_and_loss
from wanavatar_lab.media.video_reader import check_length, orientation, shown_size, usual_rate, video_stream
from wanavatar_lab.settings import read_settings

MOST_OFF = Fraction(1, 10)  # by which a header's frame rate may differ from the frames that are there
# frames per second: a recorder that writes several frames at once dates them a millisecond apart
LARGEST_STEADY_RATE = 120
# How many steps of frames are taken together, and the share of frames that may be left out without it. Over several, a
# clock that trembles evens out; one alone is for movements that are shorter than these.
STEPS_TOGETHER = (8, 0.02), (1, 0.1)
NEARLY_WHOLE = 0.01  # frames per second: less than 29.97 misses 30 by


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds; None where a kind has no such thing.

    Attributes:
        kind: "picture" (an animation too, which has frames and a duration), "video" (with or without sound) or "audio".
        width, height: pixels, upright and square.
        fps: frames per second, on average.
        steady_fps: the constant rate at which no frame is lost; more than `fps` where a recording stands still and then
            moves fast.
        frames: number of frames.
        duration: seconds, of the longer of picture and sound.
        picture_seconds: seconds from the file's zero to the end of the last frame; the picture may begin after the
            sound, so that this is more than its frames last.
        audio_rate: Hz.
        audio_channels: as many as the file has.
        hdr: "HLG" or "PQ" for a picture or video of such colours, which are read as SDR; empty for others.
        missing: what cannot be read of the file, in words; empty if nothing is known to be missing.
    """

    kind: Literal["picture", "video", "audio"]
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    steady_fps: float | None = None
    frames: int | None = None
    duration: float | None = None
    picture_seconds: float | None = None
    audio_rate: int | None = None
    audio_channels: int | None = None
    hdr: str = ""
    missing: str = ""

    @property
    def moves(self) -> bool:
        """Whether it is a video or an animation."""
        return self.steady_fps is not None


def probe(path: Path | str) -> MediaInfo:
    """Look into a media file.

    A picture is decoded. Of a video the first frame is. Lengths come from the index of an MP4 that is whole; of other
    files, which may declare none or a guess, they are counted by going through the file.

    Raises:
        MediaError: no such file, not a media file, nothing in it that can be decoded, of no duration, or larger than
            the settings allow; audio may be longer than `max_audio_seconds`, since a part of it can be read.
    """
    if is_picture(path):
        picture, moving = read_picture_and_loss(path), dict[str, Any]()
        if durations := [duration for _, duration in animation(path)]:
            length = sum(durations) / 1000
            moving = {
                "fps": len(durations) / length,
                "steady_fps": _steady_rate(np.cumsum([0, *durations]), Fraction(1, 1000), len(durations) / length),
                "frames": len(durations),
                "duration": length,
                "picture_seconds": length,
            }
        return MediaInfo("picture", *picture.image.size, hdr=picture.hdr, missing=picture.missing, **moving)
    settings = read_settings()
    with reading(path, settings) as source:
        sound, known = source.sound, dict[str, Any]()
        if sound and sound.rate:
            known = {"audio_rate": sound.rate, "audio_channels": sound.channels}
            check_file_rate(path, sound.rate)
        if sound and not any(isinstance(stream, VideoStream) and stream.width for stream in source.streams):
            for _ in source.packets():
                pass
            if not source.seconds or not known:  # a damaged beginning, and packets without times
                heard = read_audio(path)
                known = {"audio_rate": heard.rate, "audio_channels": heard.channels}
                return MediaInfo("audio", duration=heard.seconds, **known, missing=source.missing)
            return MediaInfo("audio", duration=_duration(source.seconds, path), **known, missing=source.missing)
        stream = video_stream(source, settings)
        check_length(source.path, source.length, settings)
        found = _counted(source, stream)
        if found.first is None and sound:
            lost = "; ".join(filter(None, ["no frame of its picture can be decoded", source.missing]))
            return MediaInfo("audio", duration=_duration(found.seconds, path), **known, missing=lost)
        if found.first is None:
            raise MediaError(f"{path} has no frame that can be decoded. Export it again.")
        check_length(source.path, found.seconds, settings)
        duration = _duration(found.seconds, path)
        size = shown_size(stream)
        width, height = reversed(size) if orientation(found.first)[1] % 2 else size
        fps, own = stream.average_rate, found.frames / (found.end - found.begin)
        # what a header states is exact, but of a camera that is slower in the dark only what was asked of it
        if not fps or (not source.damaged and abs(fps - own) > MOST_OFF * own):
            fps = own
        steady = _steady_rate(found.times, stream.time_base or Fraction(0), float(fps))
        known |= {"fps": float(fps), "steady_fps": steady, "frames": found.frames, "duration": duration}
        known |= {"picture_seconds": float(found.end), "hdr": hdr_of(found.first), "missing": source.missing}
        return MediaInfo("video", width, height, **known)


def read_metadata(path: Path | str) -> dict[str, str]:
    """The texts by name that a picture or clip was written with; empty for a file that holds none.

    Raises:
        MediaError: no such file, or not a media file.
    """
    if is_picture(path):
        texts, comment = picture_texts(path)
    else:
        with reading(path, read_settings()) as source:
            texts, comment = {}, source.container.metadata.get("comment", "")
    with suppress(ValueError):  # a comment of another program
        if isinstance(found := json.loads(comment), dict):
            texts |= found
    return {str(name): text for name, text in texts.items() if isinstance(text, str)}


class _Counted(NamedTuple):
    """The first frame if any can be decoded, number of frames, seconds up to the end of the last stream, where the
    picture begins and ends, in seconds from the file's zero, and when its frames begin, in the stream's clock.
    """

    first: VideoFrame | None
    frames: int
    seconds: Fraction
    begin: Fraction
    end: Fraction
    times: list[int]


def _counted(source: Source, stream: VideoStream) -> _Counted:
    # times of frames, where all that the index of an MP4 lists is in the file; a fragmented one lists none
    indexed, times = list[int](), list[int]()
    if "mp4" in source.container.format.name and source.length:
        ends = [entry.pos + entry.size for part in source.streams for entry in part.index_entries[-1:]]
        if max(ends, default=0) <= source.container.size:
            # frames before the begin of an edit list are decoded and not shown
            indexed = [entry.timestamp for entry in stream.index_entries if not entry.is_discard]
    first, count, begin, last, end = None, 0, None, source.zero, source.zero
    for packet in source.packets():
        if packet.stream is stream:
            if packet.size and not packet.is_discard:
                time, until = source.times(packet)
                begin, last, end = time if begin is None else min(begin, time), max(last, time), max(end, until)
                count += 1
                if packet.pts is not None:
                    times.append(packet.pts)
            first = first or next(iter(source.decode(packet)), None)
        if indexed and source.length and first is not None:
            base = stream.time_base or Fraction(0)
            begin = (stream.start_time or 0) * base - source.zero
            end = source.length if stream.duration is None else begin + stream.duration * base
            return _Counted(first, len(indexed), source.length, begin, end, indexed)
    if begin is None or end <= begin:  # a raw stream has no times
        seconds = source.seconds or count / usual_rate(stream)
        return _Counted(first, count, seconds, Fraction(0), seconds, times)
    if end == last:  # without a length of its own, the last frame is shown as long as the others
        end += (last - begin) / (count - 1)
    return _Counted(first, count, max(source.seconds, end - source.zero), begin - source.zero, end - source.zero, times)


def _steady_rate(times: ArrayLike, base: Fraction, fps: float) -> float:
    """The average rate, if hardly a frame is left out at it, or the rate of the frames that follow each other fastest,
    but for a few.

    Args:
        times: of the frames, in any order.
        base: seconds of one unit of them.
        fps: the average rate.
    """
    at, rate = np.unique(times) * float(base), fps
    for width, few in STEPS_TOGETHER:
        if _left_out(at, rate) <= few * len(at):
            break
        if len(at) <= width:
            continue
        steps = np.sort(at[width:] - at[:-width]) / width
        fast = steps[len(steps) // 10]
        # the mean of those that are nearly as short, since clocks of milliseconds round
        slack = 1 + 0.15 / width**0.5
        rate = min(1 / steps[(steps * slack > fast) & (steps < fast * slack)].mean(), LARGEST_STEADY_RATE)
    if rate <= fps * (1 + MOST_OFF):
        return fps
    return float(round(rate) if abs(rate - round(rate)) < NEARLY_WHOLE else rate)


def _left_out(times: NDArray[np.float64], rate: float) -> int:
    """How many frames get no place at a constant rate, where each may be shown late by one step of it."""
    count, free = 0, -math.inf
    for time in times.tolist():
        if free - time > 1 / rate:
            count += 1
        else:
            free = max(time, free) + 1 / rate
    return count


def _duration(seconds: Fraction, path: Path | str) -> float:
    if seconds <= 0:
        raise MediaError(f"{path} has a duration of 0 s. Export it again.")
    return float(seconds)
