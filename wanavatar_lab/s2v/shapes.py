"""Which shapes of the network's inputs belong together.

Checked before anything runs: a pose of one frame or a reference of a batch of one would broadcast in silence, and a
motion latent of another size would fail deep inside the first attention.
"""

from collections.abc import Mapping
from typing import Any

import torch

TEXT_LENGTH = 512  # tokens, filled up with zeros


def check_shapes(
    config: Mapping[str, Any],
    hidden_states: torch.Tensor,
    timestep: torch.Tensor,
    encoder_hidden_states: torch.Tensor,
    ref_latents: torch.Tensor,
    audio_embeds: torch.Tensor,
    motion_latents: torch.Tensor | None,
    pose_latents: torch.Tensor | None,
    inpaint_latents: torch.Tensor | None = None,
) -> tuple[int, int, int]:
    """The video's token grid (frames, rows, columns), once all shapes fit it; arguments as in `forward`.

    Args:
        config: the model's config.
        motion_latents, pose_latents, inpaint_latents: None where there are none.

    Raises:
        ValueError: names the input, its shape and the one that is needed.
    """
    shape, patch = tuple(hidden_states.shape), tuple(config["patch_size"])
    if len(shape) != 5 or any(size % step or not size for size, step in zip(shape[2:], patch, strict=True)):
        raise ValueError(f"hidden_states is {shape}; need [B, C, F, h, w] with F, h, w in multiples of {patch}.")
    batch, _, frames, height, width = shape
    length = encoder_hidden_states.shape[1] if encoder_hidden_states.ndim == 3 else TEXT_LENGTH
    if length > TEXT_LENGTH:
        raise ValueError(f"encoder_hidden_states has {length} tokens; at most {TEXT_LENGTH} are allowed.")

    channels = config["out_channels"]
    given = config["in_channels"] - channels
    if inpaint_latents is not None and not given:
        raise ValueError(
            f"inpaint_latents is given, but this network takes {channels} channels and no more. Load one that was "
            "trained for it, or widen it with wanavatar_lab.s2v.inpaint.widen_patch_embedding."
        )
    needed: dict[str, tuple[torch.Tensor | None, tuple[int, ...]]] = {
        "hidden_states": (hidden_states, (batch, channels, frames, height, width)),
        "timestep": (timestep, (batch,)),
        "encoder_hidden_states": (encoder_hidden_states, (batch, length, config["text_dim"])),
        "ref_latents": (ref_latents, (batch, channels, 1, height, width)),
        "audio_embeds": (audio_embeds, (batch, config["num_audio_layers"], config["audio_dim"], 4 * frames)),
        "pose_latents": (pose_latents, (batch, config["pose_channels"], frames, height, width)),
        "inpaint_latents": (inpaint_latents, (batch, given, frames, height, width)),
    }
    if motion_latents is not None:
        kept = motion_latents.shape[2] if motion_latents.ndim == 5 and motion_latents.shape[2] else 1
        needed["motion_latents"] = (motion_latents, (batch, channels, kept, height, width))
    for name, (tensor, wanted) in needed.items():
        if tensor is not None and tuple(tensor.shape) != wanted:
            raise ValueError(f"{name} is {tuple(tensor.shape)}; need {wanted}, as hidden_states is {shape}.")
    return frames // patch[0], height // patch[1], width // patch[2]
