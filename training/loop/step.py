"""One forward pass of training: conditioning dropout, noise, prediction, loss.

Everything random is drawn from the number of the micro-batch, not from a running generator: a resumed run draws what an
uninterrupted one would have drawn, however the processes share the micro-batches.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from training.config.training_config import Mode
from training.loop.loss import LatentMasks, Losses, draw_branches, noisy, s2v_loss
from training.model.flow import flow_sigmas
from wanavatar_lab.wan.latents import MOTION_FRAMES

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Draws:
    """The random numbers of a micro-batch of B samples.

    Attributes:
        sigma: noise levels [B].
        noise: [B, z, T, h, w].
        branch: int [B], see `training.loop.loss`.
        no_reference, no_audio, no_text, no_inpaint: bool [B], the conditions that are dropped.
    """

    sigma: Tensor
    noise: Tensor
    branch: Tensor
    no_reference: Tensor
    no_audio: Tensor
    no_text: Tensor
    no_inpaint: Tensor

    @classmethod
    def of(cls, number: int, seed: int, target: Tensor, shift: float, dropout: float) -> "Draws":
        """Those of micro-batch `number`, whose clean latents are `target` [B, z, T, h, w].

        They are drawn on the CPU, so that they are the same on every machine, and returned on the target's device.
        """
        # a prime above any number of micro-batches, so that two seeds share no draws
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        count = len(target)
        sigma = flow_sigmas(count, generator, shift)
        branch = draw_branches(count, generator)
        dropped = torch.rand(3, count, generator=generator) < dropout
        noise = torch.randn(target.shape, generator=generator)
        no_inpaint = torch.rand(count, generator=generator) < dropout
        return cls(*(tensor.to(target.device) for tensor in (sigma, noise, branch, *dropped, no_inpaint)))


def train_step(network: Any, batch: Batch, draws: Draws, mode: Mode = "normalised", floor: float = 0.0) -> Losses:
    """Predict a micro-batch and compute its loss.

    Args:
        network: `WanS2VTransformer3DModel`, or a wrapper of it.
        batch: "target" [B, z, T, h, w]; "reference" [B, z, 1, h, w]; "motion" [B, z, M, h, w] for continuations;
            "audio" [B, layers, dim, 4·T]; "text" [B, L, d] and "no_text" [1, L, d], the empty prompt's; "face" and
            "lip" [B, T, h, w]; "valid" bool [B, T]; for inpainting "inpaint" [B, 4 + z, T, h, w], see
            `wanavatar_lab.s2v.inpaint.encode_given`.
        draws: of this micro-batch.
        mode, floor: of the loss.
    """
    target = batch["target"]
    text = torch.where(draws.no_text[:, None, None], batch["no_text"], batch["text"])
    audio = batch["audio"].masked_fill(draws.no_audio[:, None, None, None], 0.0)
    reference = batch["reference"].masked_fill(draws.no_reference[:, None, None, None, None], 0.0)
    inpaint = batch.get("inpaint")
    if inpaint is not None:
        inpaint = inpaint.masked_fill(draws.no_inpaint[:, None, None, None, None], 0.0)
    predicted = network(
        hidden_states=noisy(target, draws.noise, draws.sigma),
        timestep=draws.sigma * 1000,
        encoder_hidden_states=text,
        ref_latents=reference,
        motion_latents=batch.get("motion"),
        audio_embeds=audio,
        inpaint_latents=inpaint,
        motion_frames=MOTION_FRAMES,
        drop_motion_frames="motion" not in batch,
        return_dict=False,
    )[0]
    masks = LatentMasks(batch["face"], batch["lip"], batch["valid"])
    return s2v_loss(predicted, target, draws.noise, masks, draws.branch, mode, floor)
