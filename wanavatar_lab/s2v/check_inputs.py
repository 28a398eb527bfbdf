"""Checks of the pipeline's arguments: what does not fit is refused by name and value before anything is computed."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from wanavatar_lab.s2v.audio_features import FEATURE_RATE, SAMPLE_RATE, SHORTEST_SAMPLES, AudioFeatures
from wanavatar_lab.wan.latents import VideoFrames
from wanavatar_lab.wan.text_checkpoint import TEXT_LENGTH

PIXEL_MULTIPLE = 16  # VAE stride 8 times patch size 2
LEAST_PIXELS = 64  # the oldest motion frames are packed eight latents at a time


def check_sizes(
    height: int,
    width: int,
    frames_per_segment: int,
    num_segments: int | None,
    motion_frames: int,
    pose_video: torch.Tensor | VideoFrames | None,
) -> None:
    """Check the sizes of a clip; arguments as in `WanSpeechToVideoPipeline.stream`.

    Raises:
        ValueError: names the argument, its value and what is needed.
    """
    for name, value, multiple, least in (
        ("height", height, PIXEL_MULTIPLE, LEAST_PIXELS),
        ("width", width, PIXEL_MULTIPLE, LEAST_PIXELS),
        ("frames_per_segment", frames_per_segment, 4, 4),
    ):
        if value < least or value % multiple:
            raise ValueError(f"{name} is {value}; need a multiple of {multiple}, {least} or more.")
    if motion_frames < 1 or motion_frames % 4 != 1:
        raise ValueError(f"motion_frames is {motion_frames}; need 4n + 1, as the VAE groups frames.")
    if num_segments is not None and num_segments < 0:
        raise ValueError(f"num_segments is {num_segments}; need 1 or more, or None for as many as the audio needs.")
    if pose_video is not None and (pose_video.ndim != 4 or tuple(pose_video.shape[1:]) != (3, height, width)):
        raise ValueError(f"pose_video is {tuple(pose_video.shape)}; need [F, 3, {height}, {width}].")


def check_sampling(
    num_inference_steps: int, guidance_scale: float, flow_shift: float, pose_start: float, pose_end: float
) -> None:
    """Check how a clip is sampled; arguments as in `WanSpeechToVideoPipeline.stream`.

    Raises:
        ValueError: names the argument, its value and what is needed.
    """
    if num_inference_steps < 1:
        raise ValueError(f"num_inference_steps is {num_inference_steps}; need 1 or more.")
    if not math.isfinite(guidance_scale):
        raise ValueError(f"guidance_scale is {guidance_scale}; need a finite number, 1 for no guidance.")
    if not (math.isfinite(flow_shift) and flow_shift > 0):
        raise ValueError(f"flow_shift is {flow_shift}; need a positive number.")
    if not 0 <= pose_start <= pose_end <= 1:
        raise ValueError(f"pose_start is {pose_start} and pose_end is {pose_end}; need 0 ≤ pose_start ≤ pose_end ≤ 1.")


def check_inpainting(
    video: torch.Tensor | VideoFrames | None,
    mask: torch.Tensor | VideoFrames | None,
    height: int,
    width: int,
    config: Mapping[str, Any],
) -> None:
    """Check the video that a clip is painted into; arguments as in `WanSpeechToVideoPipeline.stream`.

    Raises:
        ValueError: names the argument and what is needed.
    """
    if video is None and mask is None:
        return
    if video is None or mask is None:
        raise ValueError("Pass inpaint_video and inpaint_mask both, or neither.")
    if config["in_channels"] == config["out_channels"]:
        raise ValueError(
            f"inpaint_video is given, but this network takes {config['in_channels']} channels and no mask. Load one "
            "that was trained for it."
        )
    for name, frames, channels in (("inpaint_video", video, 3), ("inpaint_mask", mask, 1)):
        if frames.ndim != 4 or tuple(frames.shape[1:]) != (channels, height, width):
            raise ValueError(f"{name} is {tuple(frames.shape)}; need [F, {channels}, {height}, {width}].")


def check_embeds(name: str, embeds: torch.Tensor, text_dim: int) -> None:
    """Check prompt embeddings.

    Raises:
        ValueError: they are not [1, L, text_dim] with 1 ≤ L ≤ 512; the text has `name` and their shape.
    """
    shape = tuple(embeds.shape)
    if len(shape) != 3 or shape[0] != 1 or not 1 <= shape[1] <= TEXT_LENGTH or shape[2] != text_dim:
        raise ValueError(f"{name} is {shape}; need [1, L, {text_dim}] with L from 1 to {TEXT_LENGTH}.")


def cut_audio(
    audio: np.ndarray | torch.Tensor | None,
    features: torch.Tensor | AudioFeatures | None,
    start: float,
    duration: float | None,
) -> np.ndarray | torch.Tensor | AudioFeatures:
    """The part of the waveform, or of its features, that the clip is made for.

    Args:
        audio: mono waveform [T] at 16 kHz, or None.
        features: hidden states [layers, T, dim] at 50 Hz, or None; exactly one of the two is given.
        start, duration: in seconds; a duration of None takes all up to the end.

    Raises:
        ValueError: both or neither is given, a shape is wrong, or nothing is left between start and end.
    """
    if audio is not None and features is not None:
        raise ValueError("Pass either audio (a waveform) or audio_features, and not both.")
    if not (math.isfinite(start) and start >= 0):
        raise ValueError(f"audio_start is {start}; need seconds from the audio's start, 0 or more.")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"audio_duration is {duration}; need more than 0 seconds, or None for all of it.")
    if features is not None:
        whole: Any = features if isinstance(features, AudioFeatures) else AudioFeatures.from_tensor(features)
        rate, least = FEATURE_RATE, 1
    elif audio is not None:
        if audio.ndim != 1:
            raise ValueError(f"audio is {tuple(audio.shape)}; need a mono waveform [T] at {SAMPLE_RATE} Hz.")
        whole, rate, least = audio, SAMPLE_RATE, SHORTEST_SAMPLES
    else:
        raise ValueError("Pass audio (a waveform) or audio_features.")
    if start >= len(whole) / rate:
        raise ValueError(f"audio_start is {start} s, but the audio ends at {len(whole) / rate:.2f} s.")
    part = whole[round(start * rate) : None if duration is None else round((start + duration) * rate)]
    if len(part) < least:
        raise ValueError(
            f"audio_start is {start} s and audio_duration is {duration}: that leaves {1000 * len(part) / rate:g} ms of "
            f"audio; need {1000 * least / rate:g} ms or more."
        )
    return part
