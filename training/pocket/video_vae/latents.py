"""Latents of the toy VAE as the video models know them."""

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from training.pocket.video_vae.together import decode_together, encode_together


def normalised_latents(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    """Normalised latents [B, z, T, h, w] in float32 of pixels [B, 3, F, H, W] in [-1, 1]; F = 4·T - 3."""
    mean = encode_together(vae, pixels)[:, : vae.config.z_dim].float()
    centre, spread = _scale(vae, mean)
    return (mean - centre) / spread


def decoded(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Pixels [B, 3, 4·T - 3, H, W] in [-1, 1] of normalised latents [B, z, T, h, w]."""
    centre, spread = _scale(vae, latents)
    return decode_together(vae, latents * spread + centre).clamp(-1, 1)


def _scale(vae: AutoencoderKLWan, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the VAE's latents, [1, z, 1, 1, 1] each."""
    mean, spread = (
        torch.tensor(values, device=latents.device).view(1, -1, 1, 1, 1)
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )
    return mean, spread
