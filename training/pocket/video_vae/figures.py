"""How much of a clip a VAE gives back. Pixels are [B, 3, F, H, W] in [-1, 1], `mouths` [B, 1, F, H, W] in 0..1."""

import torch
from torch import Tensor


def psnr(made: Tensor, true: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each frame, [B, F]."""
    return decibels((made - true).square().mean(dim=(1, 3, 4)))


def mouth_psnr(made: Tensor, true: Tensor, mouths: Tensor) -> Tensor:
    """PSNR in dB where the mouths are, of all frames together."""
    return decibels(((made - true).square() * mouths).sum() / (made.shape[1] * mouths.sum()))


def mouth_change(made: Tensor, true: Tensor, mouths: Tensor) -> Tensor:
    """How much of what changes in mouths from frame to frame is given back: 1 is all, 0 as if they stood still.

    Four frames share one latent, so a VAE may keep a mouth's mean over them and lose what it says.
    """
    error, wanted = (clip[:, :, 1:] - clip[:, :, :-1] for clip in (made - true, true))
    weight = mouths[:, :, 1:]
    return 1 - (error.square() * weight).sum() / (wanted.square() * weight).sum().clamp(min=1e-8)


def decibels(error: Tensor) -> Tensor:
    """PSNR in dB of a mean squared error of pixels in [-1, 1]."""
    return 10 * torch.log10(4 / error.clamp(min=1e-8))
