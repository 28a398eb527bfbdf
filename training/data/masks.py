"""Masks of face and lips at the resolution of the latents.

A Wan VAE encodes 8×8 pixels of four frames into one place of a latent, but the first frame of a clip alone. S2V's
targets follow the latents of the reference or of the motion frames, so each of theirs is exactly four frames.
Interpolating masks to the latents' size instead would sample them up to 2.8 frames late, and leave a third of the cells
that small lips touch without weight.
"""

import torch.nn.functional as F
from torch import Tensor

FRAMES, CELL = 4, 8  # of the Wan VAE: frames per latent, and pixels per place along a side


def latent_masks(masks: Tensor) -> Tensor:
    """How much of each latent's place is inside, 0 to 1, [B, T, H/8, W/8].

    Args:
        masks: 0 to 1, [B, 4·T, H, W].

    Raises:
        ValueError: the frames or the sides are not whole numbers of latents.
    """
    height, width = masks.shape[2:]
    if height % CELL or width % CELL:
        raise ValueError(f"{width}x{height} pixels are not whole cells: both sides must be multiples of {CELL}.")
    return F.avg_pool2d(_by_latent(masks).mean(dim=2), CELL)


def latent_validity(valid: Tensor) -> Tensor:
    """The latents in all of whose frames a face was found, bool [B, T], of `valid` [B, 4·T]."""
    return _by_latent(valid).mean(dim=2) == 1


def _by_latent(frames: Tensor) -> Tensor:
    """[B, 4·T, …] as float [B, T, 4, …]."""
    if frames.shape[1] % FRAMES:
        raise ValueError(f"{frames.shape[1]} frames are not whole latents; give a multiple of {FRAMES}.")
    return frames.unflatten(1, (-1, FRAMES)).float()
