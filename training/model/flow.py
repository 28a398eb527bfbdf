"""Flow matching: noise levels and errors (Lipman et al. 2022, arXiv:2210.02747; shift: arXiv:2403.03206)."""

import torch
from torch import Tensor


def flow_sigmas(
    count: int, generator: torch.Generator, shift: float, between: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """Noise levels [B], uniform and then shifted, as the steps of sampling are spaced.

    Args:
        between: the lowest and the highest level, after the shift.
    """
    # the inverse of `shifted`
    low, high = (sigma / (shift - (shift - 1) * sigma) for sigma in between)
    uniform = low + (high - low) * torch.rand(count, generator=generator)
    return shifted(uniform, shift).clamp(*between)


def shifted(levels: Tensor, shift: float) -> Tensor:
    """Noise levels of 0 to 1, moved towards more noise."""
    return shift * levels / (1 + (shift - 1) * levels)
