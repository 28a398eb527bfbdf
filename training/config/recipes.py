"""Ready-made settings for `training.train`, as functions that give fields of its config; and the network to train."""

from typing import Any

import torch

from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.s2v import WanS2VTransformer3DModel
from wanavatar_lab.settings import read_settings
from wanavatar_lab.weights import missing_weights


def pocket() -> dict[str, Any]:
    """The toy network on two CPU cores, in minutes."""
    return {
        "profile": "pocket",
        "rank": 16,
        "alpha": 16.0,
        "learning_rate": 2e-3,
        "clip": 1.0,
        "schedule": "cosine",
        "warm_up": 10,
        "steps": 200,
        "accumulation": 2,
        "shift": 3.0,
        "checkpoint_every": 25,
        "sample_steps": 8,  # as `speech_to_video` has on this profile
        "gradient_checkpointing": False,
        "precision": "float32",
    }


def s2v_14b_1gpu() -> dict[str, Any]:
    """Wan2.2-S2V-14B on one GPU with 80 GB, and 64 GB of main memory; the defaults as documented.

    480×832×80 frames take 11.9 s a sample and 54 GB on an H100, by `python -m training.bench`.
    """
    return {
        "profile": "full",
        "keep_attention": None,
        "offload": None,
        "compile": True,
        "attention_backend": "_native_cudnn",
        "validate_every": 50,
    }


def s2v_14b_2gpu() -> dict[str, Any]:
    """The same on two GPUs: half of the accumulation on each.

    With `training/configs/fsdp2.yaml` each has half of the frozen weights too; while they load, it has all of them.
    """
    return s2v_14b_1gpu() | {"accumulation": 4}


RECIPES = {recipe.__name__: recipe for recipe in (pocket, s2v_14b_1gpu, s2v_14b_2gpu)}


def network_of(profile: str) -> WanS2VTransformer3DModel:
    """The speech_to_video network of a profile, in float32 for the toy one and in bfloat16 for the published one.

    Raises:
        WeightsError: its weights are not there.
    """
    folder = PROFILES[profile].weights(SpeechToVideo.stage, read_settings().weights_dir)
    if not folder.is_dir():
        raise missing_weights(SpeechToVideo.stage, folder)
    # the published folder has the network at its top, a diffusers folder in a room of its own
    place = folder / "transformer" if (folder / "transformer").is_dir() else folder
    dtype = torch.float32 if profile == "pocket" else torch.bfloat16
    return WanS2VTransformer3DModel.from_official(place, torch_dtype=dtype)
