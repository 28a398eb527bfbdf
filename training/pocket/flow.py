"""Flow matching, as the toy video models learn it (Lipman et al. 2022, arXiv:2210.02747; shift: arXiv:2403.03206)."""

import torch
from torch import Tensor


def flow_sigmas(
    count: int, generator: torch.Generator, shift: float, between: tuple[float, float] = (0.0, 1.0)
) -> Tensor:
    """Noise levels [B], uniform and then shifted, as sampling spends its steps.

    Args:
        between: the lowest and the highest level, after the shift.
    """
    # where a level lies before the shift
    low, high = (sigma / (shift - (shift - 1) * sigma) for sigma in between)
    uniform = low + (high - low) * torch.rand(count, generator=generator)
    return (shift * uniform / (1 + (shift - 1) * uniform)).clamp(*between)


def flow_loss(predicted: Tensor, clean: Tensor, noise: Tensor, region: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Mean squared error of the flow ε - x, a region counting more; and that of the region alone.

    Args:
        predicted, clean, noise: [B, z, F, h, w].
        region: [B, F, h, w], share of each cell that is of the region.
        weight: how much more than 1 the region counts.
    """
    error = (predicted.float() - (noise - clean)).square().mean(dim=1)
    weights = 1 + weight * region
    inside = (error * region).sum() / region.sum().clamp(min=1e-6)
    return (error * weights).sum() / weights.sum(), inside
