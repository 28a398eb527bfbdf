"""Flow matching in the toy models' training: noise on the device, and errors; see `training.model.flow`."""

import torch
from torch import Tensor


def noise_like(tensor: Tensor, seed: int) -> Tensor:
    """Noise of the tensor's shape, drawn on its device: on the CPU millions of numbers take longer than a step."""
    return torch.randn(tensor.shape, generator=torch.Generator(tensor.device).manual_seed(seed), device=tensor.device)


def flow_error(predicted: Tensor, clean: Tensor, noise: Tensor) -> Tensor:
    """Squared error of the flow ε - x, mean over channels: [B, F, h, w] of three [B, z, F, h, w]."""
    return (predicted.float() - (noise - clean)).square().mean(dim=1)


def weighted_mean(error: Tensor, weights: Tensor) -> Tensor:
    """The mean of `error` weighted by `weights` of the same shape; 0 if all of them are."""
    return (error * weights).sum() / weights.sum().clamp(min=1e-6)
