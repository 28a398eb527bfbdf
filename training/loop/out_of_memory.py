"""What to lower when a training runs out of memory: the settings that still have room, the cheapest first."""

import os

from training.config import TrainingConfig
from wanavatar_lab.errors import LabError, is_out_of_gpu_memory, is_out_of_main_memory

_SWAPPED = 24  # blocks of 40: the GPU then holds half of the network's weights
_SHORTER = "encode shorter or smaller samples (python -m training.encode --frames 48, or --aspects square)"


def join_freed_memory() -> None:
    """Let torch's allocator join freed memory into larger pieces, unless the environment configures it.

    Samples of several shapes need tensors of several sizes: without it, pieces that fit one shape lie unused during the
    others. Call it before the first tensor on a GPU.
    """
    if "PYTORCH_CUDA_ALLOC_CONF" not in os.environ:  # the name before torch 2.10, which still counts
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def out_of_memory(error: BaseException, config: TrainingConfig, processes: int) -> LabError | None:
    """The error to raise where `error` says that memory ran out, on the GPU or in the machine; None where it does not.

    Args:
        processes: that train together.
    """
    if is_out_of_gpu_memory(error):
        return LabError(f"The GPU has too little memory for this training. {_remedies(_for_gpu(config, processes))}")
    if is_out_of_main_memory(error):
        return LabError(f"The machine has too little main memory for this training. {_remedies(_for_host(config))}")
    return None


def _for_gpu(config: TrainingConfig, processes: int) -> list[str]:
    # costs in time and quality rise from the first to the last
    return [
        *(["--gradient_checkpointing true"] if not config.gradient_checkpointing else []),
        *(["--offload all"] if config.offload is not None else []),
        *(["--mixed_precision bf16"] if config.mixed_precision == "no" else []),
        *(["--train_batch_size 1 (and as much more accumulation)"] if config.train_batch_size > 1 else []),
        *(["--optimizer adamw8bit"] if config.optimizer == "adamw" and processes == 1 else []),
        *(["--keep_attention 0"] if config.keep_attention != 0 else []),
        *(["--base_dtype fp8"] if config.base_dtype == "own" else []),
        *([f"--swap_blocks {_SWAPPED}, or more"] if processes == 1 and config.swap_blocks < _SWAPPED else []),
        *(["training/configs/fsdp2.yaml, which shards the frozen weights"] if processes > 1 else []),
        *([f"--rank {config.rank // 2}"] if config.rank > 16 else []),
        _SHORTER,
    ]


def _for_host(config: TrainingConfig) -> list[str]:
    return [
        *(["--offload 0, with which kept tensors stay on the GPU"] if config.offload != 0 else []),
        *(["--swap_blocks 0"] if config.swap_blocks else []),
        *(["--ema_decay 0"] if config.ema_decay else []),
        *([f"--rank {config.rank // 2}"] if config.rank > 16 else []),
        "training/configs/ddp.yaml instead of zero2.yaml, whose optimizer state is in main memory",
        _SHORTER,
    ]


def _remedies(settings: list[str]) -> str:
    return f"Try, one after another: {'; '.join(settings)}. Then the same command resumes from the last checkpoint."
