"""What the tests plan for: machines, and the published networks' figures."""

from pathlib import Path

from wanavatar_lab.memory import (
    Choice,
    Machine,
    activation_bytes,
    choose,
    other_machine,
    stage_components,
    usual_workload,
)
from wanavatar_lab.profiles import PROFILES

GB = 10**9
FULL = PROFILES["full"]


def machine(gpu_gb: float, gpus: int = 1, host_gb: float = 256) -> Machine:
    """GPUs with so much memory, all of it free."""
    return other_machine(int(gpu_gb * GB), gpus, int(host_gb * GB))


def choice_for(stage: str, where: Machine, resolution: str | None = None, offload: str = "auto") -> Choice:
    """Who is where in the profile `full`, whose weights need not be there."""
    components = stage_components(FULL, stage, Path("nowhere"), "cuda")
    work = usual_workload(stage, "full", resolution)
    whole, tiled = (activation_bytes(work, components, tiled) for tiled in (False, True))
    return choose(components, whole, where, offload, tiled)
