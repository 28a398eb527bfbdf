"""The outline of a recording: a few hundred numbers, as many as a drawing of it has columns.

Read the sound of any audio or video file that FFmpeg knows.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer
from numpy.typing import NDArray

from wanavatar_lab.errors import MediaError
from wanavatar_lab.media.audio import BLOCK, Audio, check_channels, check_finite, check_rate, resampled
from wanavatar_lab.media.container import packets, reading, threads
from wanavatar_lab.media.timing import seconds_asked, sound_and_picture, zero_time
from wanavatar_lab.settings import Settings, read_settings

Samples = NDArray[np.float32]
# timestamps that differ by less than this from the samples counted so far are rounding, not a hole
HOLE_SECONDS = Fraction(1, 20)
# the last AAC frames (1024 samples, 2048 with SBR, two of them at most) are filled up
FILLED_UP_SAMPLES = 4096
# an MP4's edit list may count in whole milliseconds
CLOCK_TICK = Fraction(1, 1000)


class Block(NamedTuple):
    """Decoded samples `[n, C]`, their position in samples from the file's zero, and how many the file says they are."""

    place: int
    samples: Samples
    stated: int


def read_audio(
    path: Path | str, *, rate: int | None = None, mono: bool = False, start: float = 0.0, duration: float | None = None
) -> Audio:
    """Read the sound of an audio or video file.

    Time 0 is the file's zero, which `read_frames` shares: sound that begins after the picture gets silence in
    front, holes in the timestamps are filled with silence, and an encoder's run-in and fill-up are left out.

    Args:
        rate: Hz to resample to (soxr, HQ); the file's own rate if None.
        mono: average the channels into one.
        start: seconds from the file's zero where the result begins.
        duration: seconds at most; to the end if None.

    Raises:
        MediaError: no such file, no sound in it, damaged or cut short, samples that are not finite, nothing after
            `start`, a rate outside 8 to 192 kHz, more than 8 channels, or larger than the settings allow
            (`max_media_bytes`, which the decoded samples must not exceed either, and `max_audio_seconds`, which
            counts up to the end of the part that is asked for).
    """
    settings = read_settings()
    begin = seconds_asked("The audio start", start)
    length = None if duration is None else seconds_asked("The audio duration", duration)
    if length == 0:
        raise MediaError("The audio duration is 0 s. Ask for more than that, or leave it out to read to the end.")
    if rate is not None:
        check_rate("The rate asked for", rate)
    with sound_blocks(path, settings) as (own_rate, blocks):
        first = round(begin * own_rate)
        part = _part(blocks, first, None if length is None else first + max(1, round(length * own_rate)))
        samples = _gathered(resampled(_mixed(part, mono, path), own_rate, rate or own_rate), path, settings)
    if samples is None:
        after = f" after {float(begin):g} s" if begin else ""
        raise MediaError(f"{path} has no sound{after}. Give another file or an earlier start.")
    return Audio(samples, rate or own_rate)


def extract_audio(source: Path | str) -> Audio:
    """The sound of a video at its own rate and channels: `read_audio` without options."""
    return read_audio(source)


@contextmanager
def sound_blocks(path: Path | str, settings: Settings) -> Iterator[tuple[int, Iterator[Block]]]:
    """The rate in Hz of a file's sound, and the sound itself in order and without holes, decoded as it is taken.

    Raises:
        MediaError: as `read_audio`, for the part that is taken.
    """
    with reading(path, settings) as container:
        stream = _sound_stream(container, path)
        frames = _decoded(container, stream, path)
        head = next(frames, None)
        if head is None:
            raise MediaError(f"{path} has no sound in it: not one sample decodes. Give another file.")
        rate = head.sample_rate
        check_rate(f"The rate of {path}", rate)
        check_channels(f"{path}", head.layout.nb_channels)
        blocks = _positioned(itertools.chain([head], frames), zero_time(container), path, settings)
        yield rate, _without_fill_up(blocks, _stated_end(container, stream, rate), rate)


def _sound_stream(container: InputContainer, path: Path | str) -> AudioStream:
    for stream in sound_and_picture(container):
        if isinstance(stream, AudioStream) and stream.codec_context is not None:
            stream.codec_context.thread_count = threads()
            return stream
    raise MediaError(f"{path} has no sound that can be read. Give an audio file, or a video with sound.")


def _decoded(container: InputContainer, stream: AudioStream, path: Path | str) -> Iterator[av.AudioFrame]:
    for packet in packets(container, path):
        if packet.stream is stream:
            yield from stream.decode(packet)


def _positioned(
    frames: Iterator[av.AudioFrame], zero: Fraction, path: Path | str, settings: Settings
) -> Iterator[Block]:
    """The sound in order and without holes."""
    place, rate, channels = 0, 0, 0
    for frame in frames:
        rate, channels = rate or frame.sample_rate, channels or frame.layout.nb_channels
        if frame.sample_rate != rate or frame.layout.nb_channels != channels:
            raise MediaError(f"{path} changes its rate or its channels midway. Convert it to WAV and give that.")
        samples = _as_float(frame)
        position = place
        if frame.pts is not None and frame.time_base:
            position = round((frame.pts * frame.time_base - zero) * rate)
        if place == 0 and position < 0:
            samples, position = samples[-position:], 0
        elif position - place <= (HOLE_SECONDS * rate if place else 0):
            position = place
        if position + len(samples) > settings.max_audio_seconds * rate:
            raise MediaError(
                f"The sound of {path} is longer than {settings.max_audio_seconds:g} s. Ask for a shorter part with "
                "the audio start and duration, or raise WANAVATAR_MAX_AUDIO_SECONDS."
            )
        while place < position:
            silence = np.zeros((min(BLOCK, position - place), channels), np.float32)
            yield Block(place, silence, len(silence))
            place += len(silence)
        stated = round(frame.duration * frame.time_base * rate) if frame.duration and frame.time_base else len(samples)
        yield Block(place, samples, stated)
        place += len(samples)


def _as_float(frame: av.AudioFrame) -> Samples:
    samples: NDArray[Any] = frame.to_ndarray()
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels)
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    if samples.dtype.kind == "u":
        return (samples.astype(np.float32) - 128) / np.float32(128)
    return (samples / float(1 << samples.dtype.itemsize * 8 - 1)).astype(np.float32)


def _stated_end(container: InputContainer, stream: AudioStream, rate: int) -> int | None:
    """The position at which an MP4 says its sound ends; None for other containers."""
    if "mp4" not in container.format.name or stream.duration is None or stream.time_base is None:
        return None
    return round(((stream.start_time or 0) + stream.duration) * stream.time_base * rate - zero_time(container) * rate)


def _without_fill_up(blocks: Iterator[Block], end: int | None, rate: int) -> Iterator[Block]:
    """Drop what a codec's last frames have after the stated end; much more than that means that `end` is wrong."""
    held: list[Block] = []
    for block in blocks:
        if end is not None and end < block.place + len(block.samples) <= end + FILLED_UP_SAMPLES:
            held.append(block)
            continue
        yield from held
        held.clear()
        yield block
    if not held or end is None:
        return
    exact = held[-1].place + held[-1].stated
    end = exact if 0 <= exact - end <= CLOCK_TICK * rate + 1 else end
    for block in held:
        yield block._replace(samples=block.samples[: max(0, end - block.place)])


def _part(blocks: Iterator[Block], first: int, last: int | None) -> Iterator[Samples]:
    """The samples from position `first` up to `last`; decoding stops there."""
    for place, samples, _ in blocks:
        wanted = samples[max(0, first - place) : None if last is None else max(0, last - place)]
        if len(wanted):
            yield wanted
        if last is not None and place + len(samples) >= last:
            return


def _mixed(blocks: Iterator[Samples], mono: bool, path: Path | str) -> Iterator[Samples]:
    for block in blocks:
        check_finite(f"{path}", block)
        yield block.mean(axis=1, keepdims=True, dtype=np.float32) if mono else block


def _gathered(blocks: Iterator[Samples], path: Path | str, settings: Settings) -> Samples | None:
    gathered, size = [], 0
    for block in blocks:
        size += block.nbytes
        if size > settings.max_media_bytes:
            raise MediaError(
                f"The sound of {path} takes more than {settings.max_media_bytes:,} bytes when decoded. Ask for "
                "mono, a lower rate or a shorter part, or raise WANAVATAR_MAX_MEDIA_BYTES."
            )
        gathered.append(block)
    return np.concatenate(gathered) if size else None


_FINEST = 0.01  # seconds that one number stands for at least, while the length is not known yet


@dataclass(frozen=True)
class Peaks:
    """The largest level in each of equal parts of a recording.

    Attributes:
        levels: 0 to 1, where 1 is full scale; the loudest channel counts.
        duration: seconds of the whole.
    """

    levels: list[float]
    duration: float


def read_peaks(path: Path | str, count: int = 400) -> Peaks:
    """Go through the sound of an audio or video file, without holding it in memory.

    Args:
        count: numbers at most; a recording of less than `count` hundredths of a second has fewer.

    Raises:
        MediaError: as `read_audio`.
    """
    if count < 1:
        raise MediaError(f"{count} peaks were asked for; ask for 1 or more.")
    settings = read_settings()
    fine: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = []
    with sound_blocks(path, settings) as (rate, blocks):
        part = max(1, round(rate * _FINEST))
        rest, total = np.zeros(0, np.float32), 0
        for block in blocks:
            check_finite(f"{path}", block.samples)
            total += len(block.samples)
            rest = np.concatenate((rest, np.abs(block.samples).max(axis=1)))
            whole = len(rest) // part * part
            fine.append(rest[:whole].reshape(-1, part).max(axis=1))
            rest = rest[whole:]
    if len(rest):
        fine.append(rest.max(keepdims=True))
    levels = np.concatenate(fine) if fine else rest
    if not len(levels):
        raise MediaError(f"{path} has no sound. Give another file.")
    # the first of each of `count` equal parts; every part has one where there are more levels than parts
    edges = np.unique(np.arange(min(count, len(levels))) * len(levels) // min(count, len(levels)))
    coarse = np.minimum(np.maximum.reduceat(levels, edges), 1.0)
    return Peaks([round(float(level), 3) for level in coarse], total / rate)
