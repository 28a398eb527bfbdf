"""Machines that the tests plan for, and networks of the published sizes that take no memory."""

from pathlib import Path

import pytest
import torch

from wanavatar_lab.bench import random_models
from wanavatar_lab.memory import (
    Choice,
    Machine,
    choose,
    other_machine,
    stage_components,
    usual_workload,
)
from wanavatar_lab.profiles import PROFILES

GB = 10**9
FULL = PROFILES["full"]


def machine(gpu_gb: float, gpus: int = 1, host_gb: float = 256) -> Machine:
    """GPUs with so much memory, all of it free but for CUDA contexts."""
    return other_machine(int(gpu_gb * GB), gpus, int(host_gb * GB))


def choice_for(
    stage: str, where: Machine, resolution: str | None = None, offload: str = "auto", quantization: str = "none"
) -> Choice:
    """The choice for the profile `full`, whose weights need not be installed."""
    components = stage_components(FULL, stage, Path("nowhere"), "cuda")
    return choose(components, usual_workload(stage, "full", resolution), where, offload, quantization=quantization)


def make_random_weights_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let networks of random weights have shapes and number formats, and no numbers."""

    def empty(shape: tuple[int, ...], dtype: torch.dtype, *_: object) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    monkeypatch.setattr(random_models, "random_tensor", empty)
    monkeypatch.setattr(random_models, "free_host_bytes", lambda: 10**12)  # they take none of it
