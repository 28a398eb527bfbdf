"""What the pipeline's arguments may be: refused by name and value before anything is computed.

Which shapes of the network's inputs belong together.

Checked before anything runs: a pose of one frame or a reference of a batch of one would broadcast in silence, and a
motion latent of another size would fail deep inside the first attention.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from wanavatar_lab.s2v.audio_features import FEATURE_RATE, SAMPLE_RATE, SHORTEST_SAMPLES, AudioFeatures
from wanavatar_lab.wan.latents import PoseFrames

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


PIXEL_MULTIPLE = 16  # VAE stride 8 times patch size 2
LEAST_PIXELS = 64  # the oldest motion frames are packed eight latents at a time


def check_sizes(
    height: int,
    width: int,
    frames_per_segment: int,
    num_segments: int | None,
    motion_frames: int,
    pose_video: torch.Tensor | PoseFrames | None,
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


def check_inpainting(
    video: torch.Tensor | PoseFrames | None,
    mask: torch.Tensor | PoseFrames | None,
    height: int,
    width: int,
    config: Mapping[str, Any],
) -> None:
    """Check what a clip is painted into; arguments as in `WanSpeechToVideoPipeline.stream`.

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
        start, duration: in seconds; a duration of None goes to the end.

    Raises:
        ValueError: both or neither is given, a shape is wrong, or nothing is left between start and end.
    """
    if audio is not None and features is not None:
        raise ValueError("Pass either audio (a waveform) or audio_features, and not both.")
    if not (math.isfinite(start) and start >= 0):
        raise ValueError(f"audio_start is {start}; need seconds from the audio's start, 0 or more.")
    if duration is not None and not (math.isfinite(duration) and duration > 0):
        raise ValueError(f"audio_duration is {duration}; need more than 0 seconds, or None for all of it.")
    stop = None if duration is None else start + duration
    if features is not None:
        whole = features if isinstance(features, AudioFeatures) else AudioFeatures.from_tensor(features)
        _check_start(start, whole.duration)
        kept = whole.part(start, stop)
        _check_rest(kept.length, 1, FEATURE_RATE, start, duration)
        return kept
    if audio is None:
        raise ValueError("Pass audio (a waveform) or audio_features.")
    if audio.ndim != 1:
        raise ValueError(f"audio is {tuple(audio.shape)}; need a mono waveform [T] at {SAMPLE_RATE} Hz.")
    _check_start(start, len(audio) / SAMPLE_RATE)
    heard = audio[round(start * SAMPLE_RATE) : None if stop is None else round(stop * SAMPLE_RATE)]
    _check_rest(len(heard), SHORTEST_SAMPLES, SAMPLE_RATE, start, duration)
    return heard


def _check_start(start: float, seconds: float) -> None:
    if start >= seconds:
        raise ValueError(f"audio_start is {start} s, but the audio ends at {seconds:.2f} s.")


def _check_rest(length: int, least: int, rate: int, start: float, duration: float | None) -> None:
    if length < least:
        raise ValueError(
            f"audio_start is {start} s and audio_duration is {duration}: that leaves {1000 * length / rate:g} ms of "
            f"audio; need {1000 * least / rate:g} ms or more."
        )
