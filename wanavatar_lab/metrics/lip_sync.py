"""Loudness per video frame, and how well the opening of a mouth follows it."""

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "FPS",
    "RATE",
    "LipSync",
    "best_lag",
    "correlation",
    "decibels",
    "lip_sync",
    "loudness",
    "opening_by_sound",
    "silent_frames",
]

FPS = 16  # of the clips that Wan2.2-S2V makes
RATE = 16_000  # samples per second, as wav2vec2 takes them
# frames quieter than this share of a clip's loud speech are silent: -34 dB
SILENCE = 0.02
# a track that varies by less than this share of its largest value does not change: landmarks are kept in float32, whose
# rounding is a hundredth of that
ROUNDING = 1e-4


@dataclass(frozen=True)
class LipSync:
    """How well a mouth follows a sound.

    Attributes:
        r: Pearson's r of opening and loudness, frame by frame.
        lag: frames by which the mouth is late at the highest correlation; negative if early.
        r_at_lag: r at that lag.
        r_truth: r of the opening with the true one; None if that was not given.
        r_other: r with the loudness of another sound; None if that was not given.
        silence: mean opening in silent frames; None if there are none.
        speech: mean opening in all other frames; None if there are none.
    """

    r: float
    lag: int
    r_at_lag: float
    r_truth: float | None = None
    r_other: float | None = None
    silence: float | None = None
    speech: float | None = None


def lip_sync(
    opening: ArrayLike,
    sound: ArrayLike,
    *,
    truth: ArrayLike | None = None,
    other: ArrayLike | None = None,
    rate: int = RATE,
    fps: float = FPS,
    reach: int = 8,
) -> LipSync:
    """Measure how well a mouth follows its sound.

    Args:
        opening: [F], how far the mouth is open in every frame, on any scale; frame 0 begins with the sound.
        sound: [T], mono; it may be longer or shorter than the frames, past its end it is silent.
        truth: [F], the true opening.
        other: [T'], another sound, as a baseline; compared over the shorter of the two.
        rate: samples per second.
        fps: frames per second.
        reach: the largest lag that is tried, in frames.

    Raises:
        ValueError: a track does not change, or the lengths differ.
    """
    mouth = np.asarray(opening, dtype=np.float64)
    level = loudness(sound, frames=len(mouth), fps=fps, rate=rate)
    lag = best_lag(mouth, level, reach=reach)
    silence, speech = opening_by_sound(mouth, level, fps=fps)
    r_other = None
    if other is not None:
        both = min(len(mouth), int(len(np.asarray(other)) * fps / rate))
        r_other = correlation(mouth[:both], loudness(other, frames=both, fps=fps, rate=rate))
    return LipSync(
        r=correlation(mouth, level),
        lag=lag,
        r_at_lag=_at_lag(mouth, level, lag),
        r_truth=correlation(mouth, truth) if truth is not None else None,
        r_other=r_other,
        silence=silence,
        speech=speech,
    )


def opening_by_sound(opening: ArrayLike, level: ArrayLike, *, fps: float = FPS) -> tuple[float | None, float | None]:
    """The mean opening of a mouth [F] in silence and in speech, by loudness [F]; None where there is no such frame."""
    mouth, quiet = np.asarray(opening, dtype=np.float64), silent_frames(level, margin=max(1, round(fps / 8)))
    return tuple(float(mouth[which].mean()) if which.any() else None for which in (quiet, ~quiet))  # type: ignore[return-value]


def loudness(
    samples: ArrayLike, *, frames: int | None = None, fps: float = FPS, rate: int = RATE
) -> NDArray[np.float64]:
    """Root mean square of a sound during each video frame, [frames]; frame i lasts from i/fps to (i+1)/fps seconds.

    Args:
        samples: [T], full scale is 1.
        frames: how many; None for as many as the sound lasts. Past its end the sound is silent.
        fps: frames per second.
        rate: samples per second.
    """
    sound = np.asarray(samples, dtype=np.float64)
    if frames is None:
        frames = int(np.ceil(len(sound) * fps / rate))
    edges = np.round(np.arange(frames + 1) * rate / fps).astype(np.int64)
    power = np.concatenate([[0.0], np.cumsum(sound * sound)])[np.minimum(edges, len(sound))]
    return np.sqrt(np.maximum(np.diff(power), 0) / np.diff(edges))


def decibels(values: ArrayLike, *, floor: float = -60.0) -> NDArray[np.float64]:
    """Amplitudes, full scale 1, in dB, clipped at `floor`."""
    return np.maximum(20 * np.log10(np.maximum(np.asarray(values, dtype=np.float64), 1e-12)), floor)


def silent_frames(level: ArrayLike, *, margin: int = 2) -> NDArray[np.bool_]:
    """Which frames are silent, and so are all within `margin` frames of them, [F].

    The margin is there because lips part a little before a sound and close a little after it.

    Args:
        level: [F], loudness of clean speech; noise would hide its silences.
        margin: frames.
    """
    values = np.asarray(level, dtype=np.float64)
    if not len(values):
        return np.zeros(0, dtype=np.bool_)
    heard = np.pad(values > SILENCE * np.quantile(values, 0.95), margin)
    return np.asarray(~np.lib.stride_tricks.sliding_window_view(heard, 2 * margin + 1).any(axis=1))


def correlation(first: ArrayLike, second: ArrayLike) -> float:
    """Pearson's r of two tracks of the same length.

    Raises:
        ValueError: the lengths differ, or a track is constant.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"The tracks have {a.shape} and {b.shape} frames; cut them to the same length.")
    if _is_still(a) or _is_still(b):
        raise ValueError("One of the tracks does not change, so its correlation is not defined.")
    return float(np.corrcoef(a, b)[0, 1])


def best_lag(mouth: ArrayLike, sound: ArrayLike, *, reach: int = 4) -> int:
    """The lag in frames, at most `reach`, at which the tracks [F] correlate best; negative if the mouth is early.

    A lag at which one of them does not change where they overlap, as behind a word at the very beginning, is left out.

    Raises:
        ValueError: as of `correlation`.
    """
    a, b = np.asarray(mouth, dtype=np.float64), np.asarray(sound, dtype=np.float64)
    found = {0: correlation(a, b)}
    for lag in sorted(range(-reach, reach + 1), key=abs)[1:]:  # so that of two that are equally good the smaller counts
        with suppress(ValueError):
            found[lag] = _at_lag(a, b, lag)
    return max(found, key=lambda lag: found[lag])


def _is_still(track: NDArray[np.float64]) -> bool:
    """Whether a track does not change, or has no frame."""
    return not len(track) or bool(np.ptp(track) <= ROUNDING * np.abs(track).max())


def _at_lag(mouth: NDArray[np.float64], sound: NDArray[np.float64], lag: int) -> float:
    if lag >= 0:
        return correlation(mouth[lag:], sound[: len(sound) - lag])
    return correlation(mouth[:lag], sound[-lag:])


def __dir__() -> list[str]:
    return __all__
