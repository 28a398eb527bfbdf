"""Which of a LoRA's two weights counts when: the high-noise weight settles structure, the low-noise weight detail.

Every step has a low-noise share: 0 where the high-noise weight counts, 1 where the low-noise weight does, and between
them where one goes over into the other. Wan2.2-I2V needs no schedule, since each of its experts has one side of the
boundary to itself.
"""

from collections.abc import Iterable

from wanavatar_lab.lora.find import HIGH, LOW

BOUNDARY_SIGMA = 0.9  # where Wan2.2-I2V hands over from one expert to the other
RAMP = (0.4, 0.6)  # of the steps


def shares_by_noise(sigmas: Iterable[float], boundary: float = BOUNDARY_SIGMA) -> list[float]:
    """The low-noise share of each step by its sigma (0 to 1): the high-noise weight counts from the boundary up."""
    return [0.0 if sigma >= boundary else 1.0 for sigma in sigmas]


def shares_by_progress(steps: int) -> list[float]:
    """The low-noise share of each step by how many are done: a ramp over the middle fifth, whatever the noise."""
    if steps == 1:
        return [0.5]
    start, end = RAMP
    return [min(max((step / (steps - 1) - start) / (end - start), 0.0), 1.0) for step in range(steps)]


def weight_at(share: float, high: float, low: float, noise: str) -> float:
    """The weight of an update where the low-noise share is `share`.

    Args:
        share: 0 to 1.
        high, low: the request's weights.
        noise: which noise the update's file is for: high, low or both. One for high noise fades out as the share
            grows, and one for low noise fades in.
    """
    of_high = 0.0 if noise == LOW else high * (1 - share)
    of_low = 0.0 if noise == HIGH else low * share
    return of_high + of_low
