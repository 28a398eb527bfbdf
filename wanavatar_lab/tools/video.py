"""Frames and parts of videos, and several in a row; their sound stays in sync."""

import itertools
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wanavatar_lab.errors import MediaError, check_cancelled
from wanavatar_lab.media import (
    Audio,
    MediaInfo,
    VideoWriter,
    probe,
    read_audio,
    read_frame,
    read_frames,
    write_audio,
    write_picture,
)
from wanavatar_lab.media.timing import frame_rate
from wanavatar_lab.tools.sound import Progress, with_channels

Frame = NDArray[np.uint8]
SAME_RATE = Fraction(1, 100)  # frames per second: cameras miss the rate that they mean by less

_log = logging.getLogger(__name__)


def extract_frame(
    video: Path | str,
    out: Path | str,
    *,
    frame: int = 0,
    time: float | None = None,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> MediaInfo:
    """Write a frame of a video as a picture.

    Args:
        out: .png, .jpg or .webp.
        frame: its number; 0 is the first, -1 the last.
        time: seconds; the frame nearest to this time, instead of the one of that number.

    Raises:
        MediaError: there is no such frame, or the file cannot be read or written.
        DiskFull: there is no room.
    """
    if time is not None:
        found = read_frame(video, time)
    else:
        found = _by_number(video, frame)
    write_picture(out, Image.fromarray(found), metadata=metadata)
    return probe(out)


def _by_number(video: Path | str, frame: int) -> Frame:
    def missing(seen: int) -> MediaError:
        return MediaError(f"{video} has {seen} frames and no frame {frame}. Give {-seen} to {seen - 1}.")

    number = frame
    if frame < -1:
        # counted first, since so many might not fit into memory; an index may list frames that do not decode
        seen = sum(1 for _ in _checked(read_frames(video)))
        if (number := seen + frame) < 0:
            raise missing(seen)
    frames = _checked(read_frames(video, limit=number + 1 if number >= 0 else None))
    ((seen, found),) = deque(enumerate(frames, 1), maxlen=1)
    if number >= seen:
        raise missing(seen)
    return found


def trim(
    media: Path | str,
    out: Path | str,
    *,
    start: float = 0.0,
    duration: float | None = None,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> MediaInfo:
    """Write a part of a recording or of a video with its sound.

    A video keeps its size and its frame rate; one that varies becomes constant, as fast as its fastest part. It is
    encoded anew, so that the part begins with the frame nearest to `start` and has as many frames as `duration` comes
    to, one at least; its sound begins and ends with them.

    Args:
        out: .wav or .flac for sound, .mp4 for a video.
        start: seconds from the begin of the file.
        duration: seconds; to the end if None. A part that would pass the end of the file ends there, with a warning.

    Raises:
        MediaError: there is nothing at `start`, or the file cannot be read or written.
        DiskFull: there is no room.
    """
    info = probe(media)
    if not info.moves or Path(out).suffix.lower() != ".mp4":
        part = read_audio(media, start=start, duration=duration)
        _say_missing(media, start, duration, part.seconds, 1 / part.rate)
        write_audio(out, part, metadata=metadata)
        return probe(out)
    fps = frame_rate(info.steady_fps or 0)
    limit = None if duration is None else max(1, round(Fraction(duration) * fps))
    place, whole = round(Fraction(start) * fps), frames_of(info, fps)
    if place == whole and start * fps < whole:  # within the time for which the last frame is shown
        place -= 1
    begin, left = float(place / fps), max(1, whole - place)
    count = left if limit is None else min(limit, left)
    frames = read_frames(media, fps=fps, start=begin, limit=count)
    sound = sound_of(media, info, begin, count / fps)
    if limit is None or limit > left:
        _say_cut(media, info, fps)
    written = write_clip(out, frames, fps, sound, count, metadata, progress)
    _say_missing(media, start, duration, float(written / fps), float(1 / fps))
    return probe(out)


def concatenate(
    files: Sequence[Path | str],
    out: Path | str,
    *,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> MediaInfo:
    """Write recordings, or videos with their sound, one after the other.

    Size, frame rate, sample rate and channels are those of the first; channels at most two for a video. Frames of
    another size are scaled to fit, with black bars beside them, and the log says so. The sound of each video is cut or
    silent where it is longer or shorter than its picture, so that picture and sound stay in sync in all of them.

    Args:
        files: one or more, all of sound or all of video.
        out: .wav or .flac for sound, .mp4 for videos.

    Raises:
        MediaError: there is no file, sound is mixed with video, or one cannot be read or written.
        DiskFull: there is no room.
    """
    if not files:
        raise MediaError("There is nothing to concatenate. Give one file or more.")
    infos = [probe(path) for path in files]
    kinds = {"video" if info.moves else info.kind for info in infos}
    if kinds == {"audio"}:
        first = read_audio(files[0])
        mono = first.channels == 1
        rest = [with_channels(read_audio(path, rate=first.rate, mono=mono), first.channels) for path in files[1:]]
        samples = np.concatenate([sound.samples for sound in (first, *rest)])
        write_audio(out, Audio(samples, first.rate), metadata=metadata)
        return probe(out)
    if kinds != {"video"}:
        named = ", ".join(f"{Path(path).name} is {info.kind}" for path, info in zip(files, infos, strict=True))
        raise MediaError(f"Only recordings or only videos can be joined: {named}.")
    fps, (width, height) = frame_rate(infos[0].steady_fps or 0), (infos[0].width or 0, infos[0].height or 0)
    for path, info in zip(files, infos, strict=True):
        if (info.width, info.height) != (width, height):
            _log.warning("%s has %s×%s pixels and is fitted into %d×%d.", path, info.width, info.height, width, height)
        if abs((info.steady_fps or 0) - float(fps)) > SAME_RATE:
            _log.warning("%s has %.4g frames per second and is shown at %.4g.", path, info.steady_fps, float(fps))
        _say_cut(path, info, fps)
    counts = [frames_of(info, fps) for info in infos]
    # the first's own rate, else that of the first with sound; the writer would mix surround sound down in any case
    begins = (sound_of(path, info, duration=Fraction(1, 10)) for path, info in zip(files, infos, strict=True))
    heard = next((begin for begin in begins if begin is not None), None)
    sound: Audio | None = None
    if heard is not None:
        rate, channels = heard.rate, min(2, heard.channels)
        pieces: list[NDArray[np.float32]] = []
        begin = done = 0
        for path, info, count in zip(files, infos, counts, strict=True):
            # from rounded positions and not from rounded lengths, which would add up to a drift
            begin += count
            wanted = round(begin / fps * rate) - done
            done += wanted
            piece = sound_of(path, info, 0.0, count / fps, rate, mono=channels == 1)
            samples = np.zeros((0, channels), np.float32) if piece is None else with_channels(piece, channels).samples
            if piece is None:
                _log.warning("%s has no sound; its part is silent.", path)
            pieces.append(np.pad(samples[:wanted], ((0, max(0, wanted - len(samples))), (0, 0))))
        sound = Audio(np.concatenate(pieces), rate)
    frames = itertools.chain.from_iterable(
        of_count((_fitted(frame, width, height) for frame in read_frames(path, fps=fps)), count)
        for path, count in zip(files, counts, strict=True)
    )
    write_clip(out, frames, fps, sound, sum(counts), metadata, progress)
    return probe(out)


def rewrite_with_sound(
    video: Path | str,
    out: Path | str,
    sound: Audio,
    *,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write the frames of a video with other sound.

    Raises:
        MediaError: the video cannot be read, or `out` cannot be written.
        DiskFull: there is no room.
    """
    info = probe(video)
    if info.kind != "video" or info.steady_fps is None:
        raise MediaError(f"{video} has no picture, so that it cannot be written as a video. Choose .wav.")
    fps = frame_rate(info.steady_fps)
    write_clip(out, read_frames(video, fps=fps), fps, sound, frames_of(info, fps), metadata, progress)


def write_clip(
    out: Path | str,
    frames: Iterable[Frame],
    fps: Fraction,
    sound: Audio | None,
    count: int,
    metadata: Mapping[str, str] | None,
    progress: Progress | None,
) -> int:
    """Write a video, and return how many frames it has; about `count` are expected."""
    done = 0
    with VideoWriter(out, fps=fps, audio=sound, metadata=metadata) as writer:
        for done, frame in enumerate(_checked(frames), 1):
            writer.write(frame)
            if progress is not None:
                progress(done, max(done, count))
    return done


def frames_of(info: MediaInfo, fps: Fraction) -> int:
    """How many frames a video has at a constant rate, from its zero on."""
    return max(1, round(Fraction(info.picture_seconds or 0) * fps))


def _checked(frames: Iterable[Frame]) -> Iterator[Frame]:
    for frame in frames:
        check_cancelled()
        yield frame


def sound_of(
    path: Path | str,
    info: MediaInfo,
    start: float = 0.0,
    duration: Fraction | None = None,
    rate: int | None = None,
    mono: bool = False,
) -> Audio | None:
    """The sound of a part of a video; None, with a warning where that is a loss, if it has none there."""
    if info.audio_rate is None:
        return None
    try:
        seconds = None if duration is None else float(duration)
        return read_audio(path, rate=rate, mono=mono, start=start, duration=seconds)
    except MediaError as error:
        _log.warning("The part has no sound: %s", error)
        return None


def _say_missing(path: Path | str, start: float, asked: float | None, got: float, grain: float) -> None:
    if asked is not None and got < asked - grain:
        _log.warning(
            "%s ends %.2f s after %g s: the part is shorter than the %g s that were asked for.", path, got, start, asked
        )


def _say_cut(path: Path | str, info: MediaInfo, fps: Fraction) -> None:
    behind = (info.duration or 0) - (info.picture_seconds or 0)
    if behind > 1 / fps:
        _log.warning("%s has %.2f s of sound behind its last frame, which are cut.", path, behind)


def of_count(frames: Iterator[Frame], count: int) -> Iterator[Frame]:
    """So many frames: the last one is repeated, or frames are left out."""
    last = None
    for frame in itertools.islice(frames, count):
        last, count = frame, count - 1
        yield frame
    if last is not None:
        yield from itertools.repeat(last, count)


def _fitted(frame: Frame, width: int, height: int) -> Frame:
    """A frame scaled into this size, with black bars where its shape is another."""
    rows, columns = frame.shape[:2]
    if (columns, rows) == (width, height):
        return frame
    scale = min(width / columns, height / rows)
    size = max(1, round(columns * scale)), max(1, round(rows * scale))
    canvas = Image.new("RGB", (width, height))
    scaled = Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)
    canvas.paste(scaled, ((width - size[0]) // 2, (height - size[1]) // 2))
    return np.asarray(canvas)
