"""Ready-made settings for `training.train`, as functions that give fields of its config."""

from typing import Any


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
