"""The denoising loop of one segment."""

import inspect
import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import SchedulerMixin

from wanavatar_lab.s2v.block import SegmentMemory
from wanavatar_lab.s2v.transformer import WanS2VTransformer3DModel
from wanavatar_lab.wan.scheduler import flow_sigmas


@dataclass(frozen=True)
class Sampling:
    """How a clip is sampled; see `WanSpeechToVideoPipeline.stream` for the meaning of each field."""

    num_inference_steps: int
    guidance_scale: float
    flow_shift: float
    pose_range: tuple[float, float] = (0.0, 1.0)
    attention_kwargs: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.num_inference_steps < 1:
            raise ValueError(f"num_inference_steps is {self.num_inference_steps}; need 1 or more.")
        if not math.isfinite(self.guidance_scale):
            raise ValueError(f"guidance_scale is {self.guidance_scale}; need a finite number, 1 for no guidance.")
        if not (math.isfinite(self.flow_shift) and self.flow_shift > 0):
            raise ValueError(f"flow_shift is {self.flow_shift}; need a positive number.")
        start, end = self.pose_range
        if not 0 <= start <= end <= 1:
            raise ValueError(f"pose_start is {start} and pose_end is {end}; need 0 ≤ pose_start ≤ pose_end ≤ 1.")

    @property
    def guided(self) -> bool:
        """Whether a second pass, with the negative prompt, is needed."""
        return self.guidance_scale > 1


@dataclass
class PromptPass:
    """One of the network's calls in a step.

    Args:
        name: "cond" or "uncond"; step caches keep them apart by it.
        text: embeddings [1, L, text_dim].
        audio_embeds: [1, layers, dim, 4·F].
        memory: what this pass keeps between the steps.
    """

    name: str
    text: torch.Tensor
    audio_embeds: torch.Tensor
    memory: SegmentMemory = field(default_factory=SegmentMemory)


@dataclass
class SegmentInputs:
    """What one segment is made from.

    Args:
        noise: [1, C, F, h, w] in float32.
        passes: the prompt's, and the negative prompt's when there is guidance.
        ref_latents: [1, C, 1, h, w].
        motion_latents: [1, C, T, h, w], or None for a first segment.
        pose_latents: [1, C, F, h, w] or None.
        inpaint_latents: what is given [1, 4 + C, F, h, w], or None.
        motion_frames: how many frames the motion latents stand for.
    """

    noise: torch.Tensor
    passes: list[PromptPass]
    ref_latents: torch.Tensor
    motion_latents: torch.Tensor | None
    pose_latents: torch.Tensor | None
    motion_frames: int
    inpaint_latents: torch.Tensor | None = None


def prompt_passes(texts: list[torch.Tensor], audio_embeds: torch.Tensor) -> list[PromptPass]:
    """The passes of one segment: the prompt with the audio and, if there is a second text, that one with silence."""
    heard = (audio_embeds, torch.zeros_like(audio_embeds))
    return [PromptPass(*one) for one in zip(("cond", "uncond"), texts, heard, strict=False)]


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

    start, end = sampling.pose_range
    for step, timestep in enumerate(solver.timesteps):
        posed = inputs.pose_latents if start <= step / steps < end else None
        predictions = []
        for one in inputs.passes:
            context = (
                transformer.cache_context(
                    one.name, step_index=step, sigma=float(solver.sigmas[step]), num_inference_steps=steps
                )
                if transformer.is_cache_enabled
                else nullcontext()
            )
            with context:
                prediction = transformer(
                    hidden_states=latents.to(dtype),
                    timestep=timestep.expand(latents.shape[0]),
                    encoder_hidden_states=one.text,
                    ref_latents=inputs.ref_latents,
                    audio_embeds=one.audio_embeds,
                    motion_latents=inputs.motion_latents,
                    pose_latents=posed,
                    inpaint_latents=inputs.inpaint_latents,
                    motion_frames=inputs.motion_frames,
                    drop_motion_frames=inputs.motion_latents is None,
                    memory=one.memory,
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
