"""Loudness per video frame, and how well a mouth follows it."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.pocket.speech.utterance import RATE

FPS = 16


def loudness(
    samples: ArrayLike, *, frames: int | None = None, fps: float = FPS, rate: int = RATE
) -> NDArray[np.float64]:
    """Root mean square of the sound during each video frame, [frames]; frame i is i/fps .. (i+1)/fps seconds.

    Args:
        samples: [T], full scale is 1.
        frames: how many; None takes every frame that the sound touches. Past its end the sound is silent.
    """
    sound = np.asarray(samples, dtype=np.float64)
    if frames is None:
        frames = int(np.ceil(len(sound) * fps / rate))
    edges = np.minimum(np.round(np.arange(frames + 1) * rate / fps).astype(np.int64), len(sound))
    power = np.concatenate([[0.0], np.cumsum(sound * sound)])
    lengths = np.round(np.arange(1, frames + 1) * rate / fps) - np.round(np.arange(frames) * rate / fps)
    return np.sqrt(np.maximum(np.diff(power[edges]), 0) / lengths)


def decibels(values: ArrayLike, *, floor: float = -60.0) -> NDArray[np.float64]:
    """Amplitudes, full scale 1, in dB, not below `floor`."""
    return np.maximum(20 * np.log10(np.maximum(np.asarray(values, dtype=np.float64), 1e-12)), floor)


def correlation(first: ArrayLike, second: ArrayLike) -> float:
    """Pearson's r of two tracks of the same length.

    Raises:
        ValueError: the lengths differ, or a track is constant, of which no r exists.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"The tracks have {a.shape} and {b.shape} frames; cut them to the same length.")
    if a.std() == 0 or b.std() == 0:
        raise ValueError("One of the tracks does not change, so there is no correlation to speak of.")
    return float(np.corrcoef(a, b)[0, 1])


def best_lag(mouth: ArrayLike, sound: ArrayLike, *, reach: int = 4) -> int:
    """By how many frames the mouth comes after the sound where they agree best; negative when it comes before."""
    a, b = np.asarray(mouth, dtype=np.float64), np.asarray(sound, dtype=np.float64)
    lags: Sequence[int] = range(-reach, reach + 1)

    def agreement(lag: int) -> float:
        return correlation(a[lag:], b[: len(b) - lag]) if lag >= 0 else correlation(a[:lag], b[-lag:])

    return max(lags, key=agreement)
