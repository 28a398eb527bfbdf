"""What the pipeline does between prompt and picture, in a form that trains: embeddings, places, noise levels, flow."""

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

OUT_LAYERS = (9, 18, 27)
LENGTH = 512  # of every prompt in the pipeline, padded


def embed(encoder: Qwen3ForCausalLM, tokens: Tensor, lengths: Tensor) -> Tensor:
    """Embeddings [B, L, 3 * width] of tokens [B, L] of which the first `lengths` [B] are the prompt and the rest pads.

    The same as `Flux2KleinPipeline` computes (held by a test), but for the letters that the language model would
    write next, which nobody asks for. A pad sees the prompt and not the other pads.
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
    """From the picture to the noise, as the pipeline asks for it.

    Args:
        noisy: [B, patches, channels].
        embedded: prompts, [B, L, width].
        level: of the noise, [B], 1 where nothing else is there.
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
    """Tokens [B, L] with pads up to `length`."""
    return F.pad(tokens, (0, length - tokens.shape[1]), value=pad)


def text_ids(length: int, device: torch.device) -> Tensor:
    """Where each token of a prompt stands, [L, 4]: time, row, column, place in the text."""
    ids = torch.zeros(length, 4, device=device)
    ids[:, 3] = torch.arange(length, device=device)
    return ids


def picture_ids(height: int, width: int, device: torch.device) -> Tensor:
    """Where each patch of latents stands, [height * width, 4]."""
    ids = torch.zeros(height, width, 4, device=device)
    ids[..., 1] = torch.arange(height, device=device)[:, None]
    ids[..., 2] = torch.arange(width, device=device)[None, :]
    return ids.flatten(0, 1)


def patched(latents: Tensor) -> Tensor:
    """Latents [B, C, 2h, 2w] as patches of 2x2, [B, 4C, h, w], channels first as the pipeline has them."""
    batch, channels, height, width = latents.shape
    patches = latents.reshape(batch, channels, height // 2, 2, width // 2, 2)
    return patches.permute(0, 1, 3, 5, 2, 4).reshape(batch, 4 * channels, height // 2, width // 2)


@cache
def noise_levels(steps: int, patches: int) -> tuple[float, ...]:
    """The pipeline's noise levels for a picture of `patches` patches in `steps` steps, from 1 down to 0."""
    scheduler = FlowMatchEulerDiscreteScheduler(**SCHEDULER_CONFIG)
    evenly = np.linspace(1.0, 1 / steps, steps)
    scheduler.set_timesteps(sigmas=evenly, mu=compute_empirical_mu(patches, steps))
    return tuple(float(level) for level in scheduler.sigmas)


def between(levels: Sequence[float], parts: Sequence[int]) -> list[float]:
    """`levels` with the step from one to the next cut into as many equal steps as `parts` says."""
    finer = [levels[0]]
    for start, end, count in zip(levels, levels[1:], parts, strict=False):
        finer += [start + (end - start) * (i + 1) / count for i in range(count - 1)]
        finer.append(end)  # itself, not what the rounding of a sum makes of it
    return finer
