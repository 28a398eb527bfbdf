"""What this machine has and lacks, for 00_check.ipynb: hardware, weights, and what each stage would take.

    found = look("pocket")
    print(found.machine, found.weights, found.stages, sep="\\n\\n")

Asking for a GPU imports torch, which stays out of a notebook's kernel: a subprocess does it,
`python -m wanavatar_lab.cli.check PROFILE`, which prints the same three texts as JSON.
"""

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from wanavatar_lab.cli.plan import sharing_line
from wanavatar_lab.errors import LabError
from wanavatar_lab.memory import Machine, plan, this_machine, usual_workload
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.settings import read_settings
from wanavatar_lab.weights import WEIGHTS, Weights, amount
from wanavatar_lab.weights import look as look_at

_PACKAGES = ("torch", "diffusers", "transformers", "ipywidgets")


@dataclass(frozen=True)
class Found:
    """Three texts of some lines each.

    Attributes:
        machine: processor, memory, GPUs, versions.
        weights: of the profile: where they are, and whether they are complete.
        stages: what each takes on this machine: memory, offload mode, time.
    """

    machine: str
    weights: str
    stages: str


def look(profile: str) -> Found:
    """Inspect this machine.

    Raises:
        LabError: there is no such profile, or the subprocess failed.
    """
    if profile not in PROFILES:
        raise LabError(f"There is no profile {profile!r}; there are {', '.join(PROFILES)}.")
    command = [sys.executable, "-m", "wanavatar_lab.cli.check", profile]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise LabError(f"{' '.join(command)} failed: {said}")
    return Found(**json.loads(done.stdout))


def look_here(profile: str) -> Found:
    """The same in this process, which may import torch."""
    from wanavatar_lab.worker.execute import choose_device  # imports torch

    settings = read_settings()
    machine = this_machine(choose_device())
    needed = [each for each in WEIGHTS.values() if any(name == profile for name, _ in each.needed_by)]
    return Found(
        machine="\n".join(_machine(machine)),
        weights="\n".join(_weights(each, settings.weights_dir.absolute()) for each in needed),
        stages="\n".join(_stage(profile, stage, machine) for stage in PROFILES[profile].locations),
    )


def _machine(machine: Machine) -> list[str]:
    from importlib.metadata import version

    free = "unknown" if machine.host_free is None else amount(machine.host_free)
    gpus = [f"GPU      {gpu.name}: {amount(gpu.free)} of {amount(gpu.total)} free" for gpu in machine.gpus]
    return [
        f"system   {platform.system()} {platform.machine()}, Python {platform.python_version()}",
        f"CPU      {os.cpu_count()} cores, {free} of main memory free",
        *(gpus or ["GPU      none that torch sees: stages run on the CPU"]),
        "versions " + ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
        f"runs     {read_settings().runs_dir.absolute()}",
    ]


def _weights(which: Weights, folder: Path) -> str:
    found = look_at(which, folder)
    text = f"{which.name:<20} {found.state:<10} {amount(found.size or which.size):>10}  {found.path}"
    if found.missing:
        text += f"\n    missing: {', '.join(found.missing)}"
    if found.state != "present":
        text += f"\n    download with: wanavatar-lab weights download {which.name}"
    return text


def _stage(profile: str, stage: str, machine: Machine) -> str:
    try:
        settings = read_settings()
        made = plan(profile, usual_workload(stage, profile), machine, settings.weights_dir, gpus=settings.gpus)
    except LabError as error:
        return f"{stage:<16} {error}"
    work, choice = made.workload, made.choice
    frames = f", {work.frames} frames" if work.frames > 1 else ""
    gpu = "" if choice.peak_gpu_bytes is None else f"{amount(choice.peak_gpu_bytes)} of GPU memory, "
    steps = f"{work.steps} {'step' if work.steps == 1 else 'steps'}"
    time = "" if made.seconds is None else f"; about {made.seconds:.0f} s, an estimate"
    shared = f"\n    {sharing_line(made.sharing)}" if len(machine.gpus) > 1 or made.sharing.layout.world > 1 else ""
    return (
        f"{stage:<16} {work.width}x{work.height}{frames}, {steps}: {gpu}"
        f"{amount(choice.host_bytes)} of main memory{time}\n    offload {choice.mode}: {choice.reason}{shared}"
    )


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(look_here(sys.argv[1]))) + "\n")
