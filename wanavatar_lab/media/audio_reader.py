"""Read the sound of any audio or video file that FFmpeg knows: the samples, or the outline of a recording to be drawn.

What is in the way of a network that listens to one channel is dealt with here: timestamps with holes, an encoder's
priming and padding, surround sound with the voice in its centre, and stereo whose channels cancel each other.
"""

import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.audio.stream import AudioStream
from numpy.typing import NDArray

from wanavatar_lab.errors import MediaError
from wanavatar_lab.media.audio import (
    BLOCK,
    MAX_CHANNELS,
    MAX_RATE,
    MIN_RATE,
    Audio,
    check_file_rate,
    check_finite,
    check_format,
    resampled,
    stereo_weights,
)
from wanavatar_lab.media.container import Source, reading, threads
from wanavatar_lab.media.timing import exact_seconds
from wanavatar_lab.settings import Settings, read_settings

Samples = NDArray[np.float32]
# timestamps that differ by less than this from the samples counted so far are rounding, not a hole
HOLE_SECONDS = Fraction(1, 20)
# the last AAC frames (1024 samples, 2048 with SBR, two of them at most) are padded
MAX_PADDING = 4096
# an MP4's edit list may count in whole milliseconds
CLOCK_TICK = Fraction(1, 1000)
# two channels that correlate less than this are one recording with a swapped wire: their mean would be nearly silent.
# What is only wide (reverberation, two microphones) stays above -0.5
INVERTED = -0.9
FINEST_PEAK = 0.01  # seconds that one level stands for at least, while the length is not known yet

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Peaks:
    """The largest level in each of equal parts of a recording.

    Attributes:
        levels: 0 to 1, where 1 is full scale; the loudest channel counts.
        duration: seconds of the whole.
    """

    levels: list[float]
    duration: float


def read_audio(
    path: Path | str, *, rate: int | None = None, mono: bool = False, start: float = 0.0, duration: float | None = None
) -> Audio:
    """Read the sound of an audio or video file, as far as it can be decoded; a loss is logged and kept in `missing`.

    Time 0 is the file's zero, which `read_frames` shares: sound that begins after the picture gets silence in
    front, holes in the timestamps are filled with silence, and an encoder's priming and padding are left out.

    Args:
        rate: Hz to resample to (soxr, HQ); the file's own rate if None, or the nearest from 8 to 192 kHz.
        mono: mix the channels into one. Of two channels this is the mean, or the louder one if one of them is the
            other one inverted (which is logged); surround sound is mixed so that a voice in the centre keeps its level.
            More than 8 channels are mixed in any case, into their mean, which is logged.
        start: seconds from the file's zero where the result begins.
        duration: seconds at most; to the end if None.

    Raises:
        MediaError: no such file, no sound that can be decoded, samples that are not finite, nothing after `start`, a
            `rate` outside 8 to 192 kHz, or larger than the settings allow (`max_media_bytes`,
            which the decoded samples must not exceed either, and `max_audio_seconds`, which counts up to the end of
            the part that is read).
    """
    settings = read_settings()
    begin = exact_seconds("The audio start", start)
    length = None if duration is None else exact_seconds("The audio duration", duration)
    if length == 0:
        raise MediaError("The audio duration is 0 s. Ask for more than that, or leave it out to read to the end.")
    if rate is not None:
        check_format("the result", rate, 1)
    with _sound(path, settings) as sound:
        rate = rate or min(max(sound.rate, MIN_RATE), MAX_RATE)
        first = round(begin * sound.rate)
        last = None if length is None else first + max(1, round(length * sound.rate))
        part = _part(sound.blocks, path, first, last)
        if len(sound.channels) > MAX_CHANNELS:
            # of no layout that is known; each may be a microphone of its own
            _log.warning("%s has %d channels, which are mixed into one.", path, len(sound.channels))
            part = (block.mean(axis=1, keepdims=True, dtype=np.float32) for block in part)
        elif mono and len(sound.channels) > 2:
            # the power of left and right together, so that what is in the centre alone keeps its level
            weights = stereo_weights(len(sound.channels), sound.channels).sum(axis=1, keepdims=True) * 0.5**0.5
            part = (block @ weights for block in part)
        blocks, size = [], 0
        for block in resampled(part, sound.rate, rate):
            size += block.nbytes
            if size > settings.max_media_bytes:
                raise MediaError(
                    f"The sound of {path} takes more than {settings.max_media_bytes:,} bytes when decoded. Ask for "
                    "mono, a lower rate or a shorter part, or raise WANAVATAR_MAX_MEDIA_BYTES."
                )
            blocks.append(block)
    if not size:
        after = f" after {float(begin):g} s" if begin else ""
        raise MediaError(f"{path} has no sound{after}. Give another file or an earlier start.")
    samples = np.concatenate(blocks)
    if mono and samples.shape[1] == 2:
        samples = _mixed(samples, path)
    return Audio(samples, rate, sound.source.missing)


def read_peaks(path: Path | str, count: int = 400) -> Peaks:
    """Go through the sound of an audio or video file, without holding it in memory.

    Args:
        count: levels at most; a recording of less than `count` hundredths of a second has fewer.

    Raises:
        MediaError: as `read_audio`.
    """
    if count < 1:
        raise MediaError(f"{count} peaks were asked for; ask for 1 or more.")
    fine: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = []
    with _sound(path, read_settings()) as sound:
        part = max(1, round(sound.rate * FINEST_PEAK))
        rest, total = np.zeros(0, np.float32), 0
        for samples in _part(sound.blocks, path):
            total += len(samples)
            rest = np.concatenate((rest, np.abs(samples).max(axis=1)))
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
    return Peaks([round(float(level), 3) for level in coarse], total / sound.rate)


class _Block(NamedTuple):
    """Decoded samples `[n, C]`, their position in samples from the file's zero, and how many the file declares."""

    position: int
    samples: Samples
    declared: int


class _Sound(NamedTuple):
    """The sound of an open file: its rate in Hz, its channels' names, and its blocks, decoded as they are taken."""

    source: Source
    rate: int
    channels: list[str]
    blocks: Iterator[_Block]


@contextmanager
def _sound(path: Path | str, settings: Settings) -> Iterator[_Sound]:
    """Open a file's sound, in order and without holes.

    Raises:
        MediaError: as `read_audio`, for the part that is taken.
    """
    with reading(path, settings) as source:
        stream = source.sound
        if stream is None:
            raise MediaError(f"{path} has no sound that can be read. Give an audio file, or a video with sound.")
        stream.codec_context.thread_count = threads()
        frames = source.decoded(stream)
        head: av.AudioFrame | None = next(frames, None)
        if head is None:
            raise MediaError(f"{path} has no sound in it: not one sample can be decoded. Give another file.")
        rate, channels = head.sample_rate, [channel.name for channel in head.layout.channels]
        check_file_rate(path, rate)
        blocks = _positioned(itertools.chain([head], frames), rate, len(channels), source, settings)
        yield _Sound(source, rate, channels, _without_padding(blocks, _declared_end(source, stream, rate), rate))


def _positioned(
    frames: Iterator[av.AudioFrame], rate: int, channels: int, source: Source, settings: Settings
) -> Iterator[_Block]:
    """The sound in order and without holes; frames of another rate or number of channels are damaged."""
    position = 0
    for frame in frames:
        start = position
        if frame.pts is not None and frame.time_base:
            start = round((frame.pts * frame.time_base - source.zero) * rate)
        if (frame.sample_rate, frame.layout.nb_channels) != (rate, channels):
            # a damaged header, or a recording of another kind that was appended
            source.damaged.append(source.zero + Fraction(position, rate))
            continue
        samples = _as_float(frame)
        if position == 0 and start < 0:
            samples, start = samples[-start:], 0
        elif start - position <= (HOLE_SECONDS * rate if position else 0):
            start = position
        if start + len(samples) > settings.max_audio_seconds * rate:
            raise MediaError(
                f"The sound of {source.path} is longer than {settings.max_audio_seconds:g} s. Ask for a shorter part "
                "with the audio start and duration, or raise WANAVATAR_MAX_AUDIO_SECONDS."
            )
        while position < start:
            silence = np.zeros((min(BLOCK, start - position), channels), np.float32)
            yield _Block(position, silence, len(silence))
            position += len(silence)
        ticks = frame.duration * frame.time_base if frame.duration and frame.time_base else None
        yield _Block(position, samples, len(samples) if ticks is None else round(ticks * rate))
        position += len(samples)


def _as_float(frame: av.AudioFrame) -> Samples:
    """The samples `[n, C]` of a frame, full scale ±1."""
    samples: NDArray[Any] = frame.to_ndarray()
    samples = samples.T if frame.format.is_planar else samples.reshape(-1, frame.layout.nb_channels)
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    full_scale = float(1 << samples.dtype.itemsize * 8 - 1)
    silence = full_scale if samples.dtype.kind == "u" else 0.0
    return ((samples - silence) / full_scale).astype(np.float32)


def _declared_end(source: Source, stream: AudioStream, rate: int) -> int | None:
    """The position at which an MP4 declares its sound to end; None for other containers."""
    if "mp4" not in source.container.format.name or stream.duration is None or stream.time_base is None:
        return None
    return round((((stream.start_time or 0) + stream.duration) * stream.time_base - source.zero) * rate)


def _without_padding(blocks: Iterator[_Block], end: int | None, rate: int) -> Iterator[_Block]:
    """Drop what a codec's last frames have after the declared end; much more than that means that `end` is wrong."""
    held: list[_Block] = []
    for block in blocks:
        if end is not None and end < block.position + len(block.samples) <= end + MAX_PADDING:
            held.append(block)
            continue
        yield from held
        held.clear()
        yield block
    if not held or end is None:
        return
    exact = held[-1].position + held[-1].declared
    end = exact if 0 <= exact - end <= CLOCK_TICK * rate + 1 else end
    for block in held:
        yield block._replace(samples=block.samples[: max(0, end - block.position)])


def _part(blocks: Iterator[_Block], path: Path | str, first: int = 0, last: int | None = None) -> Iterator[Samples]:
    """The samples from position `first` up to `last`; decoding stops there."""
    for position, samples, _ in blocks:
        wanted = samples[max(0, first - position) : None if last is None else max(0, last - position)]
        if len(wanted):
            check_finite(f"{path}", wanted)
            yield wanted
        if last is not None and position + len(samples) >= last:
            return


def _mixed(samples: Samples, path: Path | str) -> Samples:
    """Stereo `[T, 2]` as mono `[T, 1]`."""
    left, right = (np.ascontiguousarray(samples[:, side]) for side in (0, 1))
    power = float(left @ left), float(right @ right)
    if float(left @ right) >= INVERTED * (power[0] * power[1]) ** 0.5:
        return samples.mean(axis=1, keepdims=True, dtype=np.float32)
    louder = 0 if power[0] >= power[1] else 1
    _log.warning(
        "%s has one of its two channels inverted, so that they cancel each other; only the %s one is used for mono.",
        path,
        ("left", "right")[louder],
    )
    return samples[:, louder : louder + 1].copy()
