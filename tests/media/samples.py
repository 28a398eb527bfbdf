"""Media files that the tests make, written with PyAV alone so that they do not depend on the code under test."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from numpy.typing import NDArray

BITS, CELL = 12, 8  # a frame's number is drawn as 12 black or white squares of 8 × 8 pixels
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
FORMATS = {"u8": np.uint8, "s16": np.int16, "s32": np.int32, "flt": np.float32, "dbl": np.float64}
COLOURS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255), (224, 172, 140)]


def tone(rate: int, seconds: float, channels: int = 1, hz: float = 440.0) -> NDArray[np.float32]:
    """A sine `[T, C]` whose level falls from channel to channel."""
    time = np.arange(round(seconds * rate)) / rate
    levels = 0.5 / np.arange(1, channels + 1)
    return (np.sin(2 * np.pi * hz * time)[:, None] * levels).astype(np.float32)


def clicks(rate: int, seconds: float, times: list[float]) -> NDArray[np.float32]:
    """Silence `[T, 1]` with a click of 4 ms at each of the times."""
    samples = np.zeros((round(seconds * rate), 1), np.float32)
    for time in times:
        samples[round(time * rate) : round((time + 0.004) * rate)] = 0.9
    return samples


def onsets(samples: NDArray[np.float32], rate: int) -> list[float]:
    """Times in seconds at which a click begins in `[T, 1]`."""
    loud = np.flatnonzero(np.abs(samples[:, 0]) > 0.35)
    first = np.flatnonzero(np.diff(loud, prepend=-rate) > rate * 0.05)
    return [float(loud[index]) / rate for index in first]


def numbered(number: int, height: int = 32, width: int = 96) -> NDArray[np.uint8]:
    """A frame `[H, W, 3]` that shows its number."""
    frame = np.full((height, width, 3), 128, np.uint8)
    for bit in range(BITS):
        frame[:CELL, bit * CELL : (bit + 1) * CELL] = 235 if number >> bit & 1 else 20
    return frame


def number_in(frame: NDArray[np.uint8]) -> int:
    """The number that a frame shows."""
    cells = [frame[2 : CELL - 2, bit * CELL + 2 : (bit + 1) * CELL - 2].mean() > 128 for bit in range(BITS)]
    return sum(1 << bit for bit, white in enumerate(cells) if white)


def stripes() -> NDArray[np.uint8]:
    """A frame `[32, 112, 3]` of seven upright stripes, in COLOURS."""
    return np.concatenate([np.full((32, 16, 3), colour, np.uint8) for colour in COLOURS], axis=1)


def mux(
    path: Path,
    *,
    video: str | None = None,
    audio: str | None = None,
    frames: list[NDArray[Any]] | None = None,
    times: list[int] | None = None,
    fps: int | Fraction = 16,
    pixels: str = "yuv420p",
    tags: tuple[ColorTrc, ColorPrimaries, Colorspace] | None = None,
    samples: NDArray[np.float32] | None = None,
    rate: int = 48_000,
    audio_start: float = 0.0,
    sample_format: str = "flt",
    container: str | None = None,
    options: dict[str, str] | None = None,
    video_options: dict[str, str] | None = None,
    rotation: int = 0,
    aspect: Fraction | None = None,
) -> Path:
    """Write frames (shown at `times`, in 1/fps s) and samples `[T, C]` into any container with any codec.

    Frames are RGB or RGBA of 8 bits, or RGB of 16; `tags` are what the file says of their colours.
    """
    frames = [numbered(k) for k in range(24)] if frames is None else frames
    samples = tone(rate, 1.5) if samples is None else samples
    with av.open(str(path), "w", format=container, options=options or {}) as file:
        streams: list[Any] = []
        if video:
            picture: Any = file.add_stream(video, rate=fps, options=video_options or {})
            picture.height, picture.width, picture.pix_fmt = *frames[0].shape[:2], pixels
            picture.codec_context.time_base = 1 / Fraction(fps)
            if tags:
                codec = picture.codec_context
                codec.color_trc, codec.color_primaries, codec.colorspace = tags
                codec.color_range = ColorRange.MPEG
            if aspect:
                picture.codec_context.sample_aspect_ratio = aspect
            if rotation:
                picture.set_display_rotation(rotation)
            streams.append((picture, _pictures(frames, times, fps, pixels, tags and tags[2])))
        if audio:
            sound: Any = file.add_stream(audio, rate=rate, layout=LAYOUTS[samples.shape[1]])
            streams.append((sound, _sounds(samples, rate, audio_start, sample_format)))
        pending = [(stream, frame) for stream, made in streams for frame in made]
        for stream, frame in sorted(pending, key=lambda pair: pair[1].time):
            file.mux(stream.encode(frame))
        for stream, _ in streams:
            file.mux(stream.encode(None))
    return path


def decoded_clip(path: Path) -> tuple[list[float], list[NDArray[np.uint8]], NDArray[np.float32], int]:
    """Times and frames of the picture, and samples `[T, 1]` and rate of the sound, as FFmpeg alone presents them.

    The encoder's run-in is left out by its decoder; what the last packet has after the track's stated end is cut, as
    players do.
    """
    with av.open(str(path)) as file:
        shown: list[tuple[float, Any]] = [
            (float(frame.time), frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)
        ]
    with av.open(str(path)) as file:
        stream = file.streams.audio[0]
        assert stream.duration is not None and stream.time_base is not None
        length = round(stream.duration * stream.time_base * stream.rate)
        made: list[Any] = list(file.decode(audio=0))
        assert made[0].pts == 0
        samples = np.concatenate([frame.to_ndarray() for frame in made], axis=1)[:, :length].T
    return [time for time, _ in shown], [frame for _, frame in shown], samples, stream.rate


def _pictures(
    frames: list[NDArray[Any]], times: list[int] | None, fps: int | Fraction, pixels: str, matrix: Colorspace | None
) -> Iterator[av.VideoFrame]:
    for index, frame in enumerate(frames):
        kind = "rgb48le" if frame.dtype == np.uint16 else "rgba" if frame.shape[2] == 4 else "rgb24"
        made = av.VideoFrame.from_ndarray(frame, format=kind).reformat(format=pixels, dst_colorspace=matrix)
        made.pts = times[index] if times else index
        made.time_base = 1 / Fraction(fps)
        yield made


def _sounds(samples: NDArray[np.float32], rate: int, start: float, kind: str) -> Iterator[av.AudioFrame]:
    dtype = np.dtype(FORMATS[kind])
    scaled: NDArray[Any] = samples.astype(np.float64)
    if kind == "u8":
        scaled = np.clip(np.rint(scaled * 128 + 128), 0, 255)
    elif dtype.kind == "i":
        full = 1 << dtype.itemsize * 8 - 1
        scaled = np.clip(np.rint(scaled * full), -full, full - 1)
    scaled = scaled.astype(dtype)
    for place in range(0, len(samples), 1024):
        block = np.ascontiguousarray(scaled[place : place + 1024].reshape(1, -1))
        made = av.AudioFrame.from_ndarray(block, format=kind, layout=LAYOUTS[samples.shape[1]])
        made.sample_rate = rate
        made.pts = place + round(start * rate)
        made.time_base = Fraction(1, rate)
        yield made
