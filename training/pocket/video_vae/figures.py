"""Reconstruction metrics of a VAE. Pixels are [B, 3, F, H, W] in [-1, 1], `mouths` [B, 1, F, H, W] in 0..1."""

import torch
from torch import Tensor


def psnr(made: Tensor, true: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each frame, [B, F]."""
    return decibels((made - true).square().mean(dim=(1, 3, 4)))


def mouth_psnr(made: Tensor, true: Tensor, mouths: Tensor) -> Tensor:
    """PSNR in dB within the mouths, over all frames."""
    return decibels(((made - true).square() * mouths).sum() / (made.shape[1] * mouths.sum()))


def mouth_change(made: Tensor, true: Tensor, mouths: Tensor) -> Tensor:
    """Share of the frame-to-frame change in mouths that is reconstructed: 1 is all, 0 a still mouth.

    Four frames share one latent, so a VAE may reconstruct a mouth's mean over them and lose its motion.
    """
    error, wanted = (clip[:, :, 1:] - clip[:, :, :-1] for clip in (made - true, true))
    weight = mouths[:, :, 1:]
    return 1 - (error.square() * weight).sum() / (wanted.square() * weight).sum().clamp(min=1e-8)


def decibels(error: Tensor) -> Tensor:
    """Convert a mean squared error of pixels in [-1, 1] to PSNR in dB."""
    return 10 * torch.log10(4 / error.clamp(min=1e-8))
