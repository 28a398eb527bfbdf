"""The denoising loop of one segment."""

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import SchedulerMixin

from .memory import SegmentMemory
from .solver import flow_sigmas
from .transformer import WanS2VTransformer3DModel


@dataclass(frozen=True)
class Sampling:
    """How a clip is sampled; see `WanSpeechToVideoPipeline.stream` for the meaning of each field."""

    num_inference_steps: int
    guidance_scale: float
    flow_shift: float
    pose_range: tuple[float, float]
    attention_kwargs: dict[str, Any] | None


@dataclass
class SegmentInputs:
    """What one segment is made from.

    Args:
        noise: [1, C, F, h, w] in float32.
        texts: embeddings of the prompt and, when guided, of the negative prompt.
        audio_embeds: [1, layers, dim, 4·F].
        ref_latents: [1, C, 1, h, w].
        motion_latents: [1, C, T, h, w], or None for a first segment.
        pose_latents: [1, C, F, h, w] or None.
        motion_frames: how many frames the motion latents stand for.
    """

    noise: torch.Tensor
    texts: list[torch.Tensor]
    audio_embeds: torch.Tensor
    ref_latents: torch.Tensor
    motion_latents: torch.Tensor | None
    pose_latents: torch.Tensor | None
    motion_frames: int
    memories: list[SegmentMemory] = field(default_factory=lambda: [SegmentMemory(), SegmentMemory()])


def prepare_scheduler(scheduler: SchedulerMixin, sampling: Sampling, device: torch.device) -> SchedulerMixin:
    """A fresh solver of the same kind with the wanted shift, its timesteps set on Wan's sigmas."""
    shift = "flow_shift" if "flow_shift" in scheduler.config else "shift"
    solver = type(scheduler).from_config(scheduler.config, **{shift: sampling.flow_shift})
    if "sigmas" in inspect.signature(solver.set_timesteps).parameters:
        solver.set_timesteps(sigmas=flow_sigmas(sampling.num_inference_steps), device=device)
    else:
        solver.set_timesteps(sampling.num_inference_steps, device=device)
    # with the index known from the start no step waits for the device to compare timesteps
    solver.set_begin_index(0)
    return solver


def denoise_segment(
    transformer: WanS2VTransformer3DModel,
    scheduler: SchedulerMixin,
    inputs: SegmentInputs,
    sampling: Sampling,
    on_step: Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor | None],
) -> torch.Tensor | None:
    """Latents of one segment, [1, C, F, h, w] in float32, or None when `on_step` ended it.

    Args:
        on_step: called as `on_step(step, timestep, latents, noise_pred)` after every step; returns the latents to go
            on with, or None to end.
    """
    latents = inputs.noise
    dtype = transformer.patch_embedding.weight.dtype
    solver = prepare_scheduler(scheduler, sampling, latents.device)
    steps = len(solver.timesteps)
    if transformer.is_cache_enabled:
        # a step cache compares with the step before; the last step of another segment is none
        transformer._reset_stateful_cache()

    for step, timestep in enumerate(solver.timesteps):
        start, end = sampling.pose_range
        posed = inputs.pose_latents if start <= step / steps < end or (start <= 0 and end >= 1) else None
        predictions = []
        for name, text, memory, heard in zip(
            ("cond", "uncond"), inputs.texts, inputs.memories, (1.0, 0.0), strict=False
        ):
            context = (
                transformer.cache_context(
                    name, step_index=step, sigma=float(solver.sigmas[step]), num_inference_steps=steps
                )
                if transformer.is_cache_enabled
                else nullcontext()
            )
            with context:
                prediction = transformer(
                    hidden_states=latents.to(dtype),
                    timestep=timestep.expand(latents.shape[0]),
                    encoder_hidden_states=text.to(dtype),
                    ref_latents=inputs.ref_latents,
                    audio_embeds=inputs.audio_embeds * heard,
                    motion_latents=inputs.motion_latents,
                    pose_latents=posed,
                    motion_frames=inputs.motion_frames,
                    drop_motion_frames=inputs.motion_latents is None,
                    memory=memory,
                    attention_kwargs=sampling.attention_kwargs,
                    return_dict=False,
                )[0]
            predictions.append(prediction.float())
        noise_pred = predictions[0]
        if len(predictions) == 2:
            noise_pred = predictions[1] + sampling.guidance_scale * (predictions[0] - predictions[1])
        latents = solver.step(noise_pred, timestep, latents, return_dict=False)[0]
        replaced = on_step(step, timestep, latents, noise_pred)
        if replaced is None:
            return None
        latents = replaced
    return latents
