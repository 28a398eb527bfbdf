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
    return shifted(uniform, shift).clamp(*between)


def shifted(levels: Tensor, shift: float) -> Tensor:
    """Noise levels of 0 to 1, moved towards more noise."""
    return shift * levels / (1 + (shift - 1) * levels)


def noise_like(tensor: Tensor, seed: int) -> Tensor:
    """Noise of the tensor's shape, drawn on its device: millions of numbers take the CPU longer than a step takes."""
    return torch.randn(tensor.shape, generator=torch.Generator(tensor.device).manual_seed(seed), device=tensor.device)


def flow_error(predicted: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """Squared error of the flow ε - x, mean over channels: [B, F, h, w] of three [B, z, F, h, w]."""
    return (predicted.float() - (noise - clean)).square().mean(dim=1)


def weighted_mean(error: Tensor, weights: Tensor) -> Tensor:
    """The mean of `error` where each place counts as `weights` says, of the same shape; 0 where nothing counts."""
    return (error * weights).sum() / weights.sum().clamp(min=1e-6)
