"""What is in a media file: its kind, size, frames and length."""

import json
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from wanavatar_lab.errors import MediaError
from wanavatar_lab.media.audio import check_file_rate
from wanavatar_lab.media.audio_reader import read_audio
from wanavatar_lab.media.container import Source, reading
from wanavatar_lab.media.hdr import hdr_of
from wanavatar_lab.media.pictures import animation, is_picture, picture_texts, read_picture_and_loss
from wanavatar_lab.media.video_reader import check_length, orientation, shown_size, usual_rate, video_stream
from wanavatar_lab.settings import read_settings


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds; None where a kind has no such thing.

    Attributes:
        kind: "picture" (an animation too, which has frames and a duration), "video" (with or without sound) or "audio".
        width, height: pixels, upright and square.
        fps: frames per second, on average.
        frames: number of frames.
        duration: seconds, of the longer of picture and sound.
        audio_rate: Hz.
        audio_channels: as many as the file has.
        hdr: "HLG" or "PQ" for a picture or video of such colours, which are read as SDR; empty for others.
        missing: what cannot be read of the file, in words; empty if nothing is known to be missing.
    """

    kind: Literal["picture", "video", "audio"]
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    frames: int | None = None
    duration: float | None = None
    audio_rate: int | None = None
    audio_channels: int | None = None
    hdr: str = ""
    missing: str = ""


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
            moving = {"fps": len(durations) / length, "frames": len(durations), "duration": length}
        return MediaInfo("picture", *picture.image.size, hdr=picture.hdr, missing=picture.missing, **moving)
    settings = read_settings()
    with reading(path, settings) as source:
        sounds = [stream for stream in source.streams if isinstance(stream, AudioStream)]
        known: dict[str, Any] = {}
        if sounds and sounds[0].rate:
            known = {"audio_rate": sounds[0].rate, "audio_channels": sounds[0].channels}
            check_file_rate(path, sounds[0].rate)
        if sounds and not any(isinstance(stream, VideoStream) and stream.width for stream in source.streams):
            for _ in source.packets():
                pass
            if not source.seconds or not known:  # a damaged beginning, and packets without times
                heard = read_audio(path)
                known = {"audio_rate": heard.rate, "audio_channels": heard.channels}
                return MediaInfo("audio", duration=heard.seconds, **known, missing=source.missing)
            return MediaInfo("audio", duration=_duration(source.seconds, path), **known, missing=source.missing)
        stream = video_stream(source, settings)
        check_length(source.path, source.length, settings)
        first, frames, seconds = _counted(source, stream)
        if first is None and sounds:
            lost = "; ".join(filter(None, ["no frame of its picture can be decoded", source.missing]))
            return MediaInfo("audio", duration=_duration(seconds, path), **known, missing=lost)
        if first is None:
            raise MediaError(f"{path} has no frame that can be decoded. Export it again.")
        check_length(source.path, seconds, settings)
        duration = _duration(seconds, path)
        size = shown_size(stream)
        width, height = reversed(size) if orientation(first)[1] % 2 else size
        fps = float(stream.average_rate or frames / seconds)
        known |= {"hdr": hdr_of(first), "missing": source.missing}
        return MediaInfo("video", width, height, fps, frames, duration, **known)


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


def _counted(source: Source, stream: VideoStream) -> tuple[VideoFrame | None, int, Fraction]:
    """The first frame if any can be decoded, number of frames, and seconds up to the end of the last stream."""
    indexed = 0  # frames, where all that the index of an MP4 lists is in the file; a fragmented one lists none
    if "mp4" in source.container.format.name and source.length:
        ends = [entry.pos + entry.size for part in source.streams for entry in part.index_entries[-1:]]
        if max(ends, default=0) <= source.container.size:
            # frames before the begin of an edit list are decoded and not shown
            indexed = sum(not entry.is_discard for entry in stream.index_entries)
    first, count = None, 0
    for packet in source.packets():
        if packet.stream is stream:
            count += bool(packet.size) and not packet.is_discard
            first = first or next(iter(source.decode(packet)), None)
        if indexed and source.length and first is not None:
            return first, indexed, source.length
    # a raw stream has no times
    return first, count, source.seconds or count / usual_rate(stream)


def _duration(seconds: Fraction, path: Path | str) -> float:
    if seconds <= 0:
        raise MediaError(f"{path} has a duration of 0 s. Export it again.")
    return float(seconds)
