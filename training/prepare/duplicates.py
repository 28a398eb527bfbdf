"""Clips that show and say the same, as when a video lies in the folder twice, cut or encoded differently.

Neither alone tells: one person before one wall looks alike in every clip. So pictures are compared by perceptual hashes
and sounds by how their loudness goes up and down.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from training.prepare.layout import FPS
from training.prepare.measures import Measures

# Of 64 bits, how many may differ between the nearest frames of two clips.
ALIKE = 10
# Correlation of the loudness at the best of the lags up to REACH, over what both have.
SAME_SOUND, REACH = 0.95, FPS
LEAST = 2 * FPS  # frames that are compared


def duplicates(clips: Mapping[str, Measures]) -> dict[str, str]:
    """Of every clip that is a duplicate, the name of the first one that it is a duplicate of."""
    found: dict[str, str] = {}
    for (first, one), (second, other) in combinations(clips.items(), 2):
        if first not in found and second not in found and looks_alike(one, other) and sounds_alike(one, other):
            found[second] = first
    return found


def looks_alike(one: Measures, other: Measures) -> bool:
    """Whether some frame of one clip is like some frame of the other."""
    return any(
        (int(first, 16) ^ int(second, 16)).bit_count() <= ALIKE for first in one.hashes for second in other.hashes
    )


def sounds_alike(one: Measures, other: Measures) -> bool:
    """Whether the loudness of both goes up and down at the same times, up to a shift."""
    a, b = np.array(one.level), np.array(other.level)
    return any(_correlation(a, b, lag) >= SAME_SOUND for lag in range(-REACH, REACH + 1))


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64], lag: int) -> float:
    a, b = a[max(0, lag) :], b[max(0, -lag) :]
    both = min(len(a), len(b))
    a, b = a[:both], b[:both]
    if both < LEAST or a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
