"""Flow matching for training the toy models: noise drawn on the device, and losses; see also `training.model.flow`."""

import torch
from torch import Tensor


def noise_like(tensor: Tensor, seed: int) -> Tensor:
    """Gaussian noise of the tensor's shape, drawn on its device: drawing it on the CPU takes longer than a step."""
    return torch.randn(tensor.shape, generator=torch.Generator(tensor.device).manual_seed(seed), device=tensor.device)


def flow_error(predicted: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """Squared error of the flow ε - x, averaged over channels: three [B, z, F, h, w] -> [B, F, h, w]."""
    return (predicted.float() - (noise - clean)).square().mean(dim=1)


def weighted_mean(error: Tensor, weights: Tensor) -> Tensor:
    """The mean of `error` weighted by `weights` of the same shape; 0 if all weights are 0."""
    return (error * weights).sum() / weights.sum().clamp(min=1e-6)
