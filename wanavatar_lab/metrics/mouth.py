"""How far a mouth is open, from landmarks: nothing but where the lips and the eyes are in each frame."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wanavatar_lab.errors import LabError

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
