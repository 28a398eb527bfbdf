"""Settings that ship: each function gives the fields of a `TrainingConfig` that differ from its defaults."""

from typing import Any


def pocket() -> dict[str, Any]:
    """The toy network on two CPU cores, in minutes."""
    return {
        "profile": "pocket",
        "rank": 16,
        "alpha": 16.0,
        "learning_rate": 2e-3,
        "max_grad_norm": 1.0,
        "lr_scheduler": "cosine",
        "lr_warmup_steps": 10,
        "max_train_steps": 200,
        "gradient_accumulation_steps": 2,
        "loss_floor": 0.9,  # with less, what `make train-demo` measures of the background gets worse
        "checkpointing_steps": 25,
        "num_inference_steps": 8,  # as `speech_to_video` has on this profile
        "gradient_checkpointing": False,
        "mixed_precision": "no",
    }


def s2v_14b_1gpu() -> dict[str, Any]:
    """Wan2.2-S2V-14B on one GPU with 80 GB, and 64 GB of CPU RAM.

    480×832×80 frames take 11.9 s a sample and 54 GB on an H100, by `python -m training.bench`.
    """
    return {
        "profile": "full",
        "keep_attention": None,
        "offload": None,
        "compile": True,
        "attention_backend": "auto",
        "validation_steps": 50,
    }


def s2v_14b_48gb() -> dict[str, Any]:
    """Wan2.2-S2V-14B in bfloat16 on one GPU with 48 GB, and 64 GB of CPU RAM."""
    return s2v_14b_1gpu() | {"attention_backend": None, "swap_blocks": 24, "optimizer": "adamw8bit"}


def s2v_14b_24gb() -> dict[str, Any]:
    """Wan2.2-S2V-14B on one GPU with 24 GB, and 64 GB of CPU RAM: frozen weights in float8, a LoRA of rank 32."""
    return s2v_14b_48gb() | {"rank": 32, "alpha": 16.0, "base_dtype": "fp8", "swap_blocks": 30}


def s2v_14b_2gpu() -> dict[str, Any]:
    """The same on two GPUs: steps of 1 × 8 × 2 = 16 samples, as the predecessor has them, and half as many of them.

    `training/configs/fsdp2.yaml` also shards the frozen weights; while they load, each GPU holds all of them.
    """
    return s2v_14b_1gpu() | {"train_batch_size": 1, "gradient_accumulation_steps": 8}


RECIPES = {recipe.__name__: recipe for recipe in (pocket, s2v_14b_1gpu, s2v_14b_48gb, s2v_14b_24gb, s2v_14b_2gpu)}
