"""Normalised latents of the toy VAE, as the video models use them."""

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from training.pocket.video_vae.together import encode_together


def normalised_latents(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    """Encode pixels [B, 3, F, H, W] in [-1, 1] to normalised float32 latents [B, z, T, h, w]; F = 4·T - 3."""
    mean = encode_together(vae, pixels)[:, : vae.config.z_dim].float()
    shape = (1, -1, 1, 1, 1)
    centre = torch.tensor(vae.config.latents_mean, device=mean.device).view(shape)
    spread = torch.tensor(vae.config.latents_std, device=mean.device).view(shape)
    return (mean - centre) / spread
