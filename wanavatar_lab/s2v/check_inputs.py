"""Checks of the pipeline's arguments: what does not fit is refused by name and value before anything is computed."""

import math
from collections.abc import Callable, Mapping
from operator import index
from typing import Any

import numpy as np
import torch

from wanavatar_lab.requests.sizes import NAMED_AREAS, fit_into
from wanavatar_lab.s2v.audio_features import FEATURE_RATE, SAMPLE_RATE, SHORTEST_SAMPLES, AudioFeatures
from wanavatar_lab.s2v.token_layout import PACKED_SIDE
from wanavatar_lab.wan.latents import Picture, as_picture
from wanavatar_lab.wan.text_checkpoint import TEXT_LENGTH

PIXEL_MULTIPLE = 16  # VAE stride 8 times patch size 2
USUAL_AREA = NAMED_AREAS["480p"]  # pixels of a clip whose size is not given: Wan's 480p
LEAST_PIXELS = PACKED_SIDE  # or the oldest motion frames would have no token

# argument → which values fit, and what an error says is needed; a TypeError means that one does not, and `index` raises
# it for what is no whole number
_NEEDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "height": (lambda n: index(n) >= LEAST_PIXELS and n % PIXEL_MULTIPLE == 0, "a multiple of 16, 64 or more"),
    "width": (lambda n: index(n) >= LEAST_PIXELS and n % PIXEL_MULTIPLE == 0, "a multiple of 16, 64 or more"),
    "frames_per_segment": (lambda n: index(n) >= 4 and n % 4 == 0, "a multiple of 4, 4 or more"),
    "motion_frames": (lambda n: index(n) >= 1 and n % 4 == 1, "4n + 1, as the VAE groups frames"),
    "num_segments": (lambda n: n is None or index(n) >= 0, "1 or more, or None for as many as the audio needs"),
    "num_inference_steps": (lambda n: index(n) >= 1, "1 or more, a whole number"),
    "guidance_scale": (math.isfinite, "a finite number, 1 for no guidance"),
    "flow_shift": (lambda x: math.isfinite(x) and x > 0, "a positive number"),
    "pose_start": (lambda x: 0 <= x <= 1, "a share of the steps, 0 to 1"),
    "pose_end": (lambda x: 0 <= x <= 1, "a share of the steps, 0 to 1"),
    "audio_start": (lambda x: math.isfinite(x) and x >= 0, "seconds from the audio's start, 0 or more"),
    "audio_duration": (lambda x: x is None or (math.isfinite(x) and x > 0), "more than 0 seconds, or None for all"),
    "seed": (lambda n: -(2**63) <= index(n) < 2**63, "a whole number of 64 bits"),
}


def size_of_clip(image: Picture, height: int | None, width: int | None, area: int = USUAL_AREA) -> tuple[int, int]:
    """Height and width in pixels; what is None is computed from the picture's shape.

    Both are multiples of 64 of at most `area` pixels; one alone is a multiple of 16.

    Raises:
        ValueError: the picture is of no known kind.
    """
    if height is not None and width is not None:
        return height, width
    columns, rows = as_picture(image).size

    def allowed(side: float) -> int:
        return max(LEAST_PIXELS, round(side / PIXEL_MULTIPLE) * PIXEL_MULTIPLE)

    if width is not None:
        return allowed(width * rows / columns), width
    if height is not None:
        return height, allowed(height * columns / rows)
    width, height = fit_into(area, (columns, rows), PACKED_SIDE)
    return height, width


def check_arguments(arguments: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Check the arguments of `WanSpeechToVideoPipeline`, but for its audio, picture and callback.

    Args:
        arguments: name → value.
        config: the network's.

    Raises:
        ValueError: names the argument, its value and what is needed.
    """
    for name, (fits, need) in _NEEDS.items():
        try:
            fitting = fits(arguments[name])
        except TypeError:
            fitting = False
        if not fitting:
            raise ValueError(f"{name} is {arguments[name]!r}; need {need}.")
    start, end = arguments["pose_start"], arguments["pose_end"]
    if start > end:
        raise ValueError(f"pose_start is {start} and pose_end is {end}; need pose_start ≤ pose_end.")
    video, mask = arguments["inpaint_video"], arguments["inpaint_mask"]
    if (video is None) != (mask is None):
        raise ValueError("Pass inpaint_video and inpaint_mask both, or neither.")
    if (arguments["video"] is None) != (arguments["mask"] is None):
        raise ValueError("Pass video and mask both, or neither.")
    if video is not None and arguments["video"] is not None:
        raise ValueError("Pass either video or inpaint_video, and not both.")
    channels = config["out_channels"]
    if video is not None and config["in_channels"] == channels:
        raise ValueError(
            f"inpaint_video is given, but this network takes {channels} channels and no mask. Load one "
            "that was trained for it."
        )
    height, width, frames = arguments["height"], arguments["width"], arguments["frames_per_segment"]
    for name, first, shape in (
        ("pose_video", "F", (3, height, width)),
        ("inpaint_video", "F", (3, height, width)),
        ("inpaint_mask", "F", (1, height, width)),
        ("video", "F", (3, height, width)),
        ("mask", "F", (1, height, width)),
        ("latents", "S", (channels, frames // 4, height // 8, width // 8)),
    ):
        value = arguments[name]
        # other kinds of frames are read as they are needed, and give float tensors
        if isinstance(value, np.ndarray) or (isinstance(value, torch.Tensor) and not value.is_floating_point()):
            raise ValueError(f"{name} is {type(value).__name__} of {value.dtype}; need a float tensor.")
        found = () if value is None else tuple(value.shape)
        if found and found[1:] != shape:
            raise ValueError(f"{name} is {found}; need [{first}, {', '.join(map(str, shape))}].")
    for name in ("prompt", "negative_prompt")[: 2 if arguments["guidance_scale"] > 1 else 1]:
        embeds = arguments[f"{name}_embeds"]
        if embeds is None and arguments[name] is None:
            raise ValueError(f"Pass {name} or {name}_embeds.")
        if embeds is None and not isinstance(arguments[name], str):
            raise ValueError(f"{name} is {arguments[name]!r}; need one text.")
        found = () if embeds is None else tuple(embeds.shape)
        if found and (len(found) != 3 or found[::2] != (1, config["text_dim"]) or not 1 <= found[1] <= TEXT_LENGTH):
            raise ValueError(
                f"{name}_embeds is {found}; need [1, L, {config['text_dim']}] with L from 1 to {TEXT_LENGTH}."
            )


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
    if features is not None:
        whole: Any = features if isinstance(features, AudioFeatures) else AudioFeatures.from_tensor(features)
        rate, least = FEATURE_RATE, 1
    elif audio is not None:
        if not isinstance(audio, np.ndarray | torch.Tensor) or audio.ndim != 1:
            found = tuple(audio.shape) if hasattr(audio, "shape") else type(audio).__name__
            raise ValueError(f"audio is {found}; need a mono waveform [T] at {SAMPLE_RATE} Hz.")
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
