"""How far a mouth is open, from landmarks: nothing but where the lips and the eyes are in each frame.

Loudness per video frame, and how well a mouth follows it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wanavatar_lab.errors import LabError

FPS = 16
RATE = 16_000
# Frames quieter than this share of a clip's loud speech are silence: -34 dB.
SILENCE = 0.02


@dataclass(frozen=True)
class LipSync:
    """How a mouth goes with a sound.

    Attributes:
        r: Pearson's r of opening and loudness, frame by frame.
        lag: by how many frames the mouth comes late where they agree best; negative when early.
        r_at_lag: r there.
        r_truth: r of the opening with the true one; None if that was not given.
        r_other: r with the loudness of another sound; None if that was not given.
        silence: mean opening where nothing is said; None if something is said all the time.
    """

    r: float
    lag: int
    r_at_lag: float
    r_truth: float | None = None
    r_other: float | None = None
    silence: float | None = None


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
    """Measure a mouth against what it says.

    Args:
        opening: [F], how far the mouth is open in every frame, on any scale; frame 0 begins with the sound.
        sound: [T], mono; it may be longer or shorter than the frames, past its end it is silent.
        truth: [F], the opening as it should be.
        other: [T'], a sound that the mouth does not say; compared over the frames that both last.
        reach: the largest lag that is tried, in frames.

    Raises:
        ValueError: a track does not change, or the lengths differ.
    """
    mouth = np.asarray(opening, dtype=np.float64)
    level = loudness(sound, frames=len(mouth), fps=fps, rate=rate)
    lag = best_lag(mouth, level, reach=reach)
    quiet = silent_frames(level)
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
        silence=float(mouth[quiet].mean()) if quiet.any() else None,
    )


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


def silent_frames(level: ArrayLike, *, margin: int = 2) -> NDArray[np.bool_]:
    """In which frames nothing is said, nor within `margin` frames before and after, [F].

    Lips part a little before a sound and close a little after it, which is no fault.

    Args:
        level: [F], loudness of clean speech; noise hides its silences.
    """
    values = np.asarray(level, dtype=np.float64)
    if not len(values):
        return np.zeros(0, dtype=np.bool_)
    said = values > SILENCE * np.quantile(values, 0.95)
    near = (
        np.convolve(said, np.ones(2 * margin + 1), mode="same")
        if len(said) > 2 * margin
        else np.full(len(said), said.any())
    )
    return np.asarray(near < 0.5)


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
    return max(lags, key=lambda lag: _at_lag(a, b, lag))


def _at_lag(mouth: NDArray[np.float64], sound: NDArray[np.float64], lag: int) -> float:
    if lag >= 0:
        return correlation(mouth[lag:], sound[: len(sound) - lag])
    return correlation(mouth[:lag], sound[-lag:])


# A mouth is all open when the gap between the lips is this share of the distance between the eyes.
WIDE_OPEN = 0.62


class LandmarkSource(Protocol):
    """Finds landmarks in frames.

    `landmarks(frames)` takes uint8 [F, H, W, 3] and gives pixels (x, y), float [F, K, 2] each, at least for
    `lips_inner` (the inner edge of the lips: from the corner at the left of the picture along the lower lip to the
    other corner and back along the upper lip, as many points below as above, the order of MediaPipe's face mesh),
    `left_eye` and `right_eye` (any points about each eye). A frame without a face has NaN.
    """

    def landmarks(self, frames: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float64]]: ...


def mouth_opening(frames: NDArray[np.uint8], source: LandmarkSource) -> NDArray[np.float64]:
    """How far the mouth is open in every frame, [F]: 0 when the lips touch, about 1 at the widest vowel.

    Args:
        frames: uint8 [F, H, W, 3].

    Raises:
        LabError: no face was found in some frames.
    """
    found = source.landmarks(frames)
    return opening_from_landmarks(found["lips_inner"], found["left_eye"], found["right_eye"])


def opening_from_landmarks(lips_inner: ArrayLike, left_eye: ArrayLike, right_eye: ArrayLike) -> NDArray[np.float64]:
    """The mean gap between the lips about their middle, against the distance between the eyes, [F].

    Args:
        lips_inner, left_eye, right_eye: [F, K, 2] as `LandmarkSource` gives them.

    Raises:
        LabError: landmarks are missing (NaN) in some frames.
        ValueError: the lips have an odd number of points, or fewer than eight.
    """
    lips, left, right = (np.asarray(points, dtype=np.float64) for points in (lips_inner, left_eye, right_eye))
    count = lips.shape[1]
    if count % 2 or count < 8:
        raise ValueError(f"lips_inner has {count} points; it needs an even number of at least 8.")
    gone = np.isnan(lips).any(axis=(1, 2)) | np.isnan(left).any(axis=(1, 2)) | np.isnan(right).any(axis=(1, 2))
    if gone.any():
        frames = np.flatnonzero(gone)
        raise LabError(
            f"No face was found in {len(frames)} of {len(lips)} frames, the first of them frame {frames[0]}. "
            "Show the face larger and turned to the camera."
        )
    half = count // 2
    middle = np.arange(half // 2 - 1, half // 2 + 2)
    # below counts from one corner and above from the other, so that opposite points have indices that sum to count
    gap = np.linalg.norm(lips[:, middle] - lips[:, count - middle], axis=-1).mean(axis=-1)
    between_eyes = np.linalg.norm(right.mean(axis=1) - left.mean(axis=1), axis=-1)
    return gap / (WIDE_OPEN * between_eyes)
