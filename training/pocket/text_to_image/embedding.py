"""The pipeline's steps between prompt and picture, differentiable: embeddings, position ids, noise levels, velocity."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor, nn
from transformers import Qwen3ForCausalLM

from training.pocket.text_to_image.networks import SCHEDULER_CONFIG

# the text encoder's layers whose outputs FLUX.2-klein concatenates
OUT_LAYERS = (9, 18, 27)
LENGTH = 512  # tokens to which the pipeline pads every prompt


def embed(encoder: Qwen3ForCausalLM, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Embeddings [B, L, 3 * width] of tokens [B, L]; the first `lengths` [B] are the prompt, the rest padding.

    Equal to what `Flux2KleinPipeline` computes (a test compares them), without the unused logits of the next token.
    A padding token attends to the prompt and not to other padding.
    """
    model = encoder.model
    place = torch.arange(tokens.shape[1], device=tokens.device)
    states = model.embed_tokens(tokens)
    rotary = model.rotary_emb(states, place[None])
    seen = (place[None, :] <= place[:, None])[None] & (place[None, None, :] < lengths[:, None, None])
    dtype = (
        torch.get_autocast_dtype(tokens.device.type) if torch.is_autocast_enabled(tokens.device.type) else states.dtype
    )
    mask = torch.zeros(seen.shape, dtype=dtype, device=tokens.device).masked_fill(~seen, torch.finfo(dtype).min)[
        :, None
    ]
    kept = []
    for number, layer in enumerate(model.layers, start=1):
        states = layer(states, attention_mask=mask, position_embeddings=rotary)
        if number in OUT_LAYERS[:-1]:
            kept.append(states)
    return torch.cat([*kept, model.norm(states)], dim=-1)


def flow_of(transformer: nn.Module, noisy: Tensor, embedded: Tensor, level: Tensor, grid: tuple[int, int]) -> Tensor:
    """The predicted velocity, noise minus picture, with the inputs that the pipeline passes.

    Args:
        noisy: [B, patches, channels].
        embedded: prompts, [B, L, width].
        level: noise level [B]; 1 is pure noise.
        grid: rows and columns of the patches.
    """
    flow: Tensor = transformer(
        hidden_states=noisy,
        encoder_hidden_states=embedded,
        timestep=level,
        img_ids=picture_ids(*grid, noisy.device),
        txt_ids=text_ids(embedded.shape[1], noisy.device),
        return_dict=False,
    )[0]
    return flow


def lengthened(tokens: Tensor, length: int, pad: int) -> Tensor:
    """Tokens [B, L] padded to `length`."""
    return F.pad(tokens, (0, length - tokens.shape[1]), value=pad)


def text_ids(length: int, device: torch.device) -> Tensor:
    """Position ids of prompt tokens, [L, 4]: time, row, column, index in the text."""
    ids = torch.zeros(length, 4, device=device)
    ids[:, 3] = torch.arange(length, device=device)
    return ids


def picture_ids(height: int, width: int, device: torch.device) -> Tensor:
    """Position ids of latent patches, [height * width, 4]."""
    ids = torch.zeros(height, width, 4, device=device)
    ids[..., 1] = torch.arange(height, device=device)[:, None]
    ids[..., 2] = torch.arange(width, device=device)[None, :]
    return ids.flatten(0, 1)


def patched(latents: Tensor) -> Tensor:
    """Latents [B, C, 2h, 2w] packed into patches of 2x2, [B, 4C, h, w], in the pipeline's channel order."""
    batch, channels, height, width = latents.shape
    patches = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 1, 3, 5, 2, 4).reshape(batch, 4 * channels, height // 2, width // 2)


@cache
def noise_levels(steps: int, patches: int) -> tuple[float, ...]:
    """The pipeline's noise levels for `steps` steps on a picture of `patches` patches, from 1 down to 0."""
    scheduler = FlowMatchEulerDiscreteScheduler(**SCHEDULER_CONFIG)
    evenly = np.linspace(1.0, 1 / steps, steps)
    scheduler.set_timesteps(sigmas=evenly, mu=compute_empirical_mu(patches, steps))
    return tuple(float(level) for level in scheduler.sigmas)


def between(levels: Sequence[float], parts: Sequence[int]) -> list[float]:
    """Subdivide each interval between `levels` into as many equal steps as `parts` gives."""
    finer = [levels[0]]
    for start, end, count in zip(levels, levels[1:], parts, strict=False):
        finer += [start + (end - start) * (i + 1) / count for i in range(count - 1)]
        finer.append(end)  # the exact level, without the rounding error of the sum
    return finer
