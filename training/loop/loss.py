"""The loss of S2V fine-tuning: flow matching, weighted towards the face and the lips, plus a loss on motion.

Each sample takes one of three branches: the whole frame with face and lips weighted up, the face alone, or the lips
alone. A quarter of the loss is on differences between consecutive latents, to which a constant error adds nothing.
Two modes differ in the denominator:

    paper       the mean over all places, as the predecessor documents it. Lips are 0.3 % of 832×480 pixels, so the
                third branch has next to no weight.
    normalised  the weighted mean, Σ w·e / Σ w, in float32. A floor spreads a share of the weight evenly over all
                places: without it, two of the branches let the rest of the frame drift.

Flow matching: Lipman et al. 2022, arXiv:2210.02747; the shift of the noise levels: arXiv:2403.03206.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.config.training_config import BRANCHES, MOTION_SHARE, SHARES, Mode

# of a latent's places that a mask must cover, on average over the clip, to be divided by: with fewer, one noisy place
# would be most of a sample's loss. It is a third of what lips usually cover
SMALLEST = 1e-3


@dataclass(frozen=True)
class LatentMasks:
    """Face and lips in the latents of a batch.

    Attributes:
        face, lip: 0 to 1, [B, T, h, w]; see `training.data.masks`.
        valid: bool [B, T], whether a face was found in all frames of a latent. Masks of invalid latents are zero.
    """

    face: Tensor
    lip: Tensor
    valid: Tensor

    def of(self, branch: int) -> Tensor:
        """The loss weights of a branch, [B, T, h, w]."""
        seen = self.valid[:, :, None, None]
        face, lip = self.face * seen, self.lip * seen
        return (1 + face + lip, face, lip)[branch]


@dataclass(frozen=True)
class Losses:
    """The loss of a batch and what is logged of it.

    Attributes:
        loss: scalar, to be minimised: the mean over the samples of `main` and of the loss on motion, weighted.
        main: loss of each sample [B] on the latents, with the loss weights of its branch; `motion_loss` is likewise
            that on differences between consecutive latents.
        branch: int [B], the branch that each sample took.
        fell_back: bool [B], samples drawn for face or lips that lack them, and took the first branch.
        error: squared error of each sample [B] without loss weights; likewise `face`, `lip` and `background`, NaN
            where a sample has none.
        motion: squared error of the differences between consecutive latents, [B].
        area: shares of the places that are face and lips, [B, 2].
    """

    loss: Tensor
    main: Tensor
    motion_loss: Tensor
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
        predicted, clean, noise: [B, z, T, h, w], of the generated frames only: no reference and no motion latents.
        masks: of these frames.
        branch: int [B], indices into `BRANCHES`.
        mode: see above.
        floor: share of the weight that the last two branches spread evenly over all places, in mode "normalised".
    """
    difference = predicted.float() - (noise - clean).float()
    error = difference.square().mean(dim=1)
    change = (difference[:, :, 1:] - difference[:, :, :-1]).square().mean(dim=1)
    fell_back = (branch > 0) & (_weights(masks, branch).mean(dim=(1, 2, 3)) < SMALLEST)
    branch = torch.where(fell_back, 0, branch)
    weights = _weights(masks, branch)
    if mode == "paper":
        main, motion = (error * weights).mean(dim=(1, 2, 3)), change.mean(dim=(1, 2, 3))
    else:
        # the first branch weights every place anyway
        evenly = (floor * (branch > 0)).to(weights)[:, None, None, None]
        weights = torch.lerp(weights / weights.mean(dim=(1, 2, 3), keepdim=True), torch.ones_like(weights), evenly)
        # a difference is weighted by the mean of its two latents
        main, motion = _mean(error, weights), _mean(change, (weights[:, 1:] + weights[:, :-1]) / 2)
    # a single latent has no differences
    motion = motion if change.shape[1] else torch.zeros_like(main)
    loss = total(main, motion).mean()
    with torch.no_grad():
        face, lip = masks.of(1), masks.of(2)
        return Losses(
            loss,
            main.detach(),
            motion.detach(),
            branch,
            fell_back,
            error=error.mean(dim=(1, 2, 3)),
            face=_mean(error, face),
            lip=_mean(error, lip),
            background=_mean(error, (1 - face) * masks.valid[:, :, None, None]),
            motion=change.mean(dim=(1, 2, 3)) if change.shape[1] else torch.zeros_like(main),
            area=torch.stack([face.mean(dim=(1, 2, 3)), lip.mean(dim=(1, 2, 3))], dim=1),
        )


def total(main: Tensor, motion: Tensor) -> Tensor:
    """The loss of each sample, [B], of its two parts."""
    return (1 - MOTION_SHARE) * main + MOTION_SHARE * motion


def _weights(masks: LatentMasks, branch: Tensor) -> Tensor:
    """Each sample's loss weights in its branch, [B, T, h, w]."""
    each = torch.stack([masks.of(i) for i in range(len(BRANCHES))], dim=1)
    return each[torch.arange(len(branch), device=each.device), branch.to(each.device)].float()


def _mean(error: Tensor, weights: Tensor) -> Tensor:
    """Σ w·e / Σ w of each sample, [B]; NaN where all weights are zero."""
    return (error * weights).sum(dim=(1, 2, 3)) / weights.sum(dim=(1, 2, 3))
