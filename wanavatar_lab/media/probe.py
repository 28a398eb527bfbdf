"""What is in a media file: its kind, size, frames and length."""

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.video.stream import VideoStream

from wanavatar_lab.errors import MediaError
from wanavatar_lab.media.audio import check_channels, check_rate
from wanavatar_lab.media.container import packets, reading
from wanavatar_lab.media.pictures import is_picture, read_picture
from wanavatar_lab.media.timing import declared_end, sound_and_picture, zero_time
from wanavatar_lab.media.video_reader import check_length, quarter_turns, shown_size, too_long, video_stream
from wanavatar_lab.settings import Settings, read_settings


@dataclass(frozen=True)
class MediaInfo:
    """What a file holds; None where a kind has no such thing.

    Attributes:
        kind: "picture" (an animation too), "video" (with or without sound) or "audio".
        width, height: pixels, upright and square.
        fps: frames per second, on average.
        frames: number of frames.
        duration: seconds, of the longer of picture and sound.
        audio_rate: Hz.
        audio_channels: 1 to 8.
    """

    kind: Literal["picture", "video", "audio"]
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    frames: int | None = None
    duration: float | None = None
    audio_rate: int | None = None
    audio_channels: int | None = None


def probe(path: Path | str) -> MediaInfo:
    """Look into a media file.

    A picture is decoded. Of a video the first frame is; lengths come from an MP4's header, and for containers that
    may state none or a guess they are counted by going through the file.

    Raises:
        MediaError: no such file, not a media file, damaged or cut short, of no duration, or larger than the
            settings allow; audio may be longer than `max_audio_seconds`, since a part of it can be read.
    """
    if is_picture(path):
        width, height = read_picture(path).size
        return MediaInfo("picture", width, height)
    settings = read_settings()
    with reading(path, settings) as container:
        streams = sound_and_picture(container)
        sound = next((stream for stream in streams if isinstance(stream, AudioStream) and stream.codec_context), None)
        rate, channels = (sound.rate, sound.channels) if sound else (None, None)
        if rate is not None and channels is not None:
            check_rate(f"The rate of {path}", rate)
            check_channels(f"{path}", channels)
        if sound and not any(isinstance(stream, VideoStream) for stream in streams):
            _, _, duration = _counted(container, None, path)
            return MediaInfo("audio", duration=duration, audio_rate=rate, audio_channels=channels)
        picture = video_stream(container, path, settings)
        return _video(container, picture, rate, channels, path, settings)


def _video(
    container: InputContainer,
    stream: VideoStream,
    rate: int | None,
    channels: int | None,
    path: Path | str,
    settings: Settings,
) -> MediaInfo:
    check_length(container, path, settings)
    turns, frames, duration = _counted(container, stream, path)
    if duration > settings.max_video_seconds:
        raise too_long(path, settings)
    size = shown_size(stream)
    width, height = reversed(size) if turns % 2 else size
    fps = stream.average_rate or Fraction(frames) / Fraction(duration)
    return MediaInfo("video", width, height, float(fps), frames, duration, rate, channels)


def _counted(container: InputContainer, stream: VideoStream | None, path: Path | str) -> tuple[int, int, float]:
    """Quarter turns of the first frame, number of frames, and duration in seconds."""
    zero, stated = zero_time(container), declared_end(container)
    # an MP4 with its index lists every frame; a fragmented one does not
    listed = stream.frames if stream and "mp4" in container.format.name and stated else 0
    turns: int | None = None if stream else 0
    count, end = 0, Fraction(0)
    for packet in packets(container, path):
        if packet.size and packet.stream is stream:
            count += 1
        if turns is None and packet.stream is stream and stream:
            turns = next((quarter_turns(frame) for frame in stream.decode(packet)), None)
        time = packet.pts if packet.pts is not None else packet.dts
        if time is not None and packet.time_base:
            end = max(end, (time + (packet.duration or 0)) * packet.time_base - zero)
        if listed and stated and turns is not None:
            count, end = listed, stated - zero
            break
    if turns is None:
        raise MediaError(f"{path} has no frame that can be decoded. Export it again.")
    if end <= 0:
        raise MediaError(f"{path} has a duration of 0 s. Export it again.")
    return turns, count, float(end)
