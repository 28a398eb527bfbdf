"""Degradations of training inputs: blur, noise and JPEG."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

NOISY, BLOCKY = 0.5, 0.4  # shares of pictures with noise and with JPEG compression
WIDEST_BLUR = 1.8  # standard deviation in pixels of the large picture, before halving
MOST_NOISE = 0.025  # maximum standard deviation of the noise, of pixels in 0..1

# JPEG's luminance quantisation table (ITU-T T.81, annex K) at quality 50, in levels
_TABLE = torch.tensor(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)


def halved(pictures: Tensor) -> Tensor:
    """Downscale by 2: each pixel is the mean of 2x2."""
    return F.avg_pool2d(pictures, 2)


def softened(large: Tensor, generator: torch.Generator) -> Tensor:
    """Downscale by 2 with random degradations like those of cameras, codecs and decoders.

    Args:
        large: [B, 3, H, W] in 0..1, H and W multiples of 16.
        generator: on the CPU; draws blur, noise and JPEG quality per picture.

    Returns:
        [B, 3, H/2, W/2] in 0..1.
    """
    count = large.shape[0]

    def drawn() -> Tensor:
        return torch.rand(count, generator=generator).to(large.device)

    small = halved(blurred(large, 0.2 + (WIDEST_BLUR - 0.2) * drawn()))
    strength = MOST_NOISE * drawn() * (drawn() < NOISY)
    noise = torch.randn(small.shape, generator=generator).to(large.device)
    small = (small + strength[:, None, None, None] * noise).clamp(0, 1)
    coarse, chosen = jpeg(small, 40 + 50 * drawn()), drawn() < BLOCKY
    return torch.where(chosen[:, None, None, None], coarse, small).clamp(0, 1)


def blurred(pictures: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of pictures [B, 3, H, W] with `sigma` [B] in pixels."""
    reach = math.ceil(3 * WIDEST_BLUR)
    offsets = torch.arange(-reach, reach + 1, device=pictures.device)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]) ** 2)
    weights = (weights / weights.sum(dim=1, keepdim=True)).repeat_interleave(3, dim=0)
    count, _, height, width = pictures.shape
    flat = F.pad(pictures, (reach,) * 4, mode="reflect").flatten(0, 1)[None]
    flat = F.conv2d(flat, weights[:, None, None, :], groups=3 * count)
    flat = F.conv2d(flat, weights[:, None, :, None], groups=3 * count)
    return flat.view(count, 3, height, width)


def jpeg(pictures: Tensor, quality: Tensor) -> Tensor:
    """Imitate JPEG compression of pictures [B, 3, H, W] at `quality` [B], 1..100; H and W multiples of 8.

    Chroma is quantised like luma, without subsampling.
    """
    frequency, place = torch.arange(8.0)[:, None], torch.arange(8.0)[None]
    cosine = torch.cos((2 * place + 1) * frequency * (math.pi / 16)) * 0.5
    cosine[0] /= math.sqrt(2)
    to_luma = torch.tensor([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    cosine, to_luma = cosine.to(pictures), to_luma.to(pictures)
    scale = torch.where(quality < 50, 50 / quality, 2 - quality / 50)
    step = (_TABLE.to(pictures) * scale[:, None, None, None, None, None]).clamp(min=1) / 255
    luma = torch.einsum("ij,bjhw->bihw", to_luma, pictures - 0.5)
    blocks = luma.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)  # [B, 3, H/8, W/8, 8, 8]
    coded = (cosine @ blocks @ cosine.T / step).round() * step
    made = (cosine.T @ coded @ cosine).transpose(3, 4).flatten(2, 3).flatten(3, 4)
    return torch.einsum("ij,bjhw->bihw", torch.linalg.inv(to_luma), made) + 0.5
