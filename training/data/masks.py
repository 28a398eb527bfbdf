"""Masks of faces and lips as the network sees them: one place for each latent.

A Wan VAE puts 8×8 pixels into one place and several frames into one latent: four in each, but the first frame alone
where a clip begins with it. The frames that S2V learns to make come behind latents of the reference picture and of the
motion before them, so each of their latents is exactly four frames. Interpolating masks to the latents' size instead
would sample them up to 2.8 frames late, and give a third of the cells that small lips touch no weight at all.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

FRAMES, CELL = 4, 8  # of the Wan VAE: frames and pixels' side of one place


def latent_masks(masks: Tensor, first_frame_alone: bool = False) -> Tensor:
    """How much of each latent's place is inside, 0 to 1, [B, T, H/8, W/8].

    Args:
        masks: 0 to 1, [B, F, H, W]; F is 4·T, or 4·T - 3 where the first frame has a latent of its own.
        first_frame_alone: as in clips that begin with their first frame; S2V's targets do not.

    Raises:
        ValueError: the frames or the sides are not whole numbers of latents.
    """
    height, width = masks.shape[2:]
    if height % CELL or width % CELL:
        raise ValueError(
            f"A mask of {width}x{height} pixels has no whole cells; its sides must be multiples of {CELL}."
        )
    grouped = _groups(masks, first_frame_alone)
    return F.avg_pool2d(grouped.float(), CELL)


def latent_validity(valid: Tensor, first_frame_alone: bool = False) -> Tensor:
    """In which latents a face was found in every frame, bool [B, T], of `valid` [B, F]."""
    return _groups(valid.float(), first_frame_alone) == 1


def _groups(frames: Tensor, first_frame_alone: bool) -> Tensor:
    """The mean over each latent's frames, [B, T, …], of [B, F, …]."""
    count = frames.shape[1]
    if first_frame_alone:
        if count % FRAMES != 1:
            raise ValueError(f"{count} frames with the first alone are not whole latents; give 4n + 1.")
        later = _groups(frames[:, 1:], False) if count > 1 else frames[:, 1:]
        return torch.cat([frames[:, :1], later], dim=1)
    if count % FRAMES:
        raise ValueError(f"{count} frames are not whole latents; give a multiple of {FRAMES}.")
    return frames.unflatten(1, (-1, FRAMES)).float().mean(dim=2)
