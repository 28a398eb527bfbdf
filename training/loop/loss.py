"""What S2V is trained on: flow matching, in which a face and its lips count more, and how the picture moves.

Each sample takes one of three branches: all of the picture with the face and the lips counted once more, the face
alone, or the lips alone. To that comes how the prediction changes from latent to latent, which a still error leaves
alone. Two modes differ in what they divide by:

    paper       the mean over all places, as the predecessor documents it. Lips are 0.3 % of 832×480 pixels, so the
                third branch weighs next to nothing.
    normalised  the mean over what counts, Σ w·e / Σ w, in float32. A floor gives a share of the weight to all places
                evenly: without one, two of the branches let the rest of the picture drift.

Flow matching: Lipman et al. 2022, arXiv:2210.02747; the noise level's shift: arXiv:2403.03206.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.config.config import Mode

BRANCHES = ("full", "face", "lip")
SHARES = (0.4, 0.1, 0.5)  # of the samples, by branch
MOTION_SHARE = 0.25  # of the loss
SMALLEST = 1e-3  # of a latent's places that a mask must cover, on average over the clip, to be divided by


@dataclass(frozen=True)
class LatentMasks:
    """Where face and lips are in the latents of a batch.

    Attributes:
        face, lip: 0 to 1, [B, T, h, w]; see `training.data.masks`.
        valid: bool [B, T], whether a face was found in all frames of a latent. What is not valid counts in no mask.
    """

    face: Tensor
    lip: Tensor
    valid: Tensor

    def of(self, branch: int) -> Tensor:
        """How much each place counts in a branch, [B, T, h, w]."""
        seen = self.valid[:, :, None, None]
        face, lip = self.face * seen, self.lip * seen
        return (1 + face + lip, face, lip)[branch]


@dataclass(frozen=True)
class Losses:
    """The loss of a batch and what is logged of it.

    Attributes:
        loss: scalar, to be minimised.
        branch: int [B], the branch that each sample really took.
        fell_back: bool [B], samples that were to learn a face or lips which nobody found, and took the first branch.
        error: plain squared error of each sample [B]; likewise `face`, `lip` and `background`, where none is NaN.
        motion: plain squared error of the change from latent to latent, [B].
        area: shares of the places that are face and lips, [B, 2].
    """

    loss: Tensor
    branch: Tensor
    fell_back: Tensor
    error: Tensor
    face: Tensor
    lip: Tensor
    background: Tensor
    motion: Tensor
    area: Tensor


def noisy(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """(1 - σ)·x + σ·ε, of [B, z, T, h, w] twice and noise levels [B]."""
    return torch.lerp(clean, noise, sigma[:, None, None, None, None].to(clean.dtype))


def draw_branches(count: int, generator: torch.Generator) -> Tensor:
    """Which branch each of `count` samples takes, int [B]."""
    return torch.multinomial(torch.tensor(SHARES), count, replacement=True, generator=generator)


def s2v_loss(
    predicted: Tensor,
    clean: Tensor,
    noise: Tensor,
    masks: LatentMasks,
    branch: Tensor,
    mode: Mode = "normalised",
    floor: float = 0.0,
) -> Losses:
    """The loss of predicted flows, whose target is ε - x.

    Args:
        predicted, clean, noise: [B, z, T, h, w], the frames to be made alone: no reference and no motion latents.
        masks: of these frames.
        branch: int [B], indices into `BRANCHES`.
        mode: what the weighted error is divided by.
        floor: share of the weight of the last two branches that lies evenly on all places, where that is normalised.
    """
    difference = predicted.float() - (noise - clean).float()
    error = difference.square().mean(dim=1)
    change = (difference[:, :, 1:] - difference[:, :, :-1]).square().mean(dim=1)
    fell_back = (branch > 0) & (_by_branch(masks, branch).mean(dim=(1, 2, 3)) < SMALLEST)
    branch = torch.where(fell_back, 0, branch)
    weights = _by_branch(masks, branch)
    if mode == "normalised":
        # the first branch counts every place anyway
        evenly = (floor * (branch > 0)).to(weights)[:, None, None, None]
        weights = torch.lerp(weights / weights.mean(dim=(1, 2, 3), keepdim=True), torch.ones_like(weights), evenly)
    # a change lies between two latents
    between = (weights[:, 1:] + weights[:, :-1]) / 2
    if mode == "paper":
        main, motion = (error * weights).mean(dim=(1, 2, 3)), change.mean(dim=(1, 2, 3))
    else:
        main, motion = _weighted(error, weights), _weighted(change, between)
    # a single latent does not change
    motion = motion if change.shape[1] else torch.zeros_like(main)
    loss = ((1 - MOTION_SHARE) * main + MOTION_SHARE * motion).mean()
    seen = masks.of(1)
    with torch.no_grad():
        return Losses(
            loss,
            branch,
            fell_back,
            error=error.mean(dim=(1, 2, 3)),
            face=_where(error, seen),
            lip=_where(error, masks.of(2)),
            background=_where(error, (1 - seen) * masks.valid[:, :, None, None]),
            motion=change.mean(dim=(1, 2, 3)) if change.shape[1] else torch.zeros_like(main),
            area=torch.stack([masks.of(i).mean(dim=(1, 2, 3)) for i in (1, 2)], dim=1),
        )


def _by_branch(masks: LatentMasks, branch: Tensor) -> Tensor:
    each = torch.stack([masks.of(i) for i in range(len(BRANCHES))], dim=1)
    return each[torch.arange(len(branch), device=each.device), branch.to(each.device)].float()


def _weighted(error: Tensor, weights: Tensor) -> Tensor:
    """Σ w·e / Σ w of each sample, [B]."""
    return (error * weights).sum(dim=(1, 2, 3)) / weights.sum(dim=(1, 2, 3))


def _where(error: Tensor, weights: Tensor) -> Tensor:
    """The mean error of each sample where something counts, [B]; NaN where nothing does."""
    return _weighted(error, weights).detach()
