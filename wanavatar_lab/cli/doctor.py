"""What this machine has and lacks, and what to do about each: the command doctor, and 00_check.ipynb.

    found = look("pocket")
    print(found.machine, found.weights, found.stages, sep="\\n\\n")

Asking for a GPU imports torch, which stays out of a notebook's kernel: a subprocess does it,
`python -m wanavatar_lab.cli.doctor PROFILE...`, which prints the checks as JSON.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from wanavatar_lab.cli.output import answer
from wanavatar_lab.errors import FAILED, SUCCEEDED, LabError, RequestError
from wanavatar_lab.memory import plan, this_machine, usual_workload
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests.request import must_be
from wanavatar_lab.requests.tools import INSTALL_SEPARATE
from wanavatar_lab.runs.run import runs_folder
from wanavatar_lab.settings import read_settings
from wanavatar_lab.weights import WEIGHTS, amount
from wanavatar_lab.weights import look as look_at

SECTIONS = ("machine", "weights", "extras", "ports", "stages")
PACKAGES = ("torch", "diffusers", "transformers", "ipywidgets")
LEAST_ROOM = 10**9  # bytes: a run of a talking clip of some minutes, with its copies
# by package of an extra: what it is for, and how it is installed
EXTRAS = {
    "flash-attn": ("FlashAttention 2", ".venv/bin/uv pip install --no-build-isolation -e '.[gpu]'"),
    "bitsandbytes": ("8-bit AdamW in training", ".venv/bin/uv pip install -e '.[adamw8bit]'"),
    "ray": ("runs on several machines", ".venv/bin/uv pip install -e '.[ray]'"),
    "voxcpm": ("text to speech by the full models", ".venv/bin/uv pip install -e '.[voices]'"),
    "audio-separator": ("separating vocals", INSTALL_SEPARATE),
}
PORTS = {8888: ("make lab and make web", "PORT=8889"), 8000: ("make api", "PORT=8001")}
State = Literal["ok", "note", "problem"]
_MARKS = {"ok": "  ok  ", "note": " note ", "problem": " FAIL "}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        section: one of `SECTIONS`.
        name: what it is.
        state: `problem` if the stages of a profile do not run so; `note` for what only some work needs.
        text: what was found.
        advice: what to do about it; empty where nothing is.
        profile: whose stages it is about; empty for all.
    """

    section: str
    name: str
    state: State
    text: str
    advice: str = ""
    profile: str = ""

    def __str__(self) -> str:
        return f"{self.name:<22} {self.text}" + (f"\n    {self.advice}" if self.advice else "")


@dataclass(frozen=True)
class Found:
    """All checks; `machine`, `weights` and `stages` are texts of some lines each.

    Attributes:
        checks: in the order of `SECTIONS`.
    """

    checks: tuple[Check, ...]

    def section(self, name: str) -> str:
        """The checks of a section as text."""
        return "\n".join(str(each) for each in self.checks if each.section == name)

    def problems(self, profile: str) -> list[str]:
        """The names of the checks that keep the stages of a profile from running."""
        return [each.name for each in self.checks if each.state == "problem" and each.profile in ("", profile)]

    @property
    def machine(self) -> str:
        """Processor, memory, GPUs, driver, disks, versions."""
        return self.section("machine")

    @property
    def weights(self) -> str:
        """The weights: where they are, and whether they are complete."""
        return self.section("weights")

    @property
    def stages(self) -> str:
        """What each stage takes on this machine: memory, offload mode, time."""
        return self.section("stages")


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    command.add_argument(
        "--profile",
        metavar="{" + ",".join(PROFILES) + "}",
        help="check the weights and stages of one profile (default: both; one that runs is enough)",
    )


def doctor(arguments: argparse.Namespace) -> int:
    """Print the checks; fails if each profile has a problem, of those that are looked at.

    Raises:
        RequestError: there is no such profile.
        LabError: the machine could not be looked at.
    """
    if arguments.profile not in (None, *PROFILES):
        allowed = f"one of {', '.join(map(repr, PROFILES))}"
        raise RequestError([("profile", must_be(allowed, arguments.profile))])
    profiles = [arguments.profile] if arguments.profile else [*PROFILES]
    found = look(*profiles)
    problems = {profile: found.problems(profile) for profile in profiles}
    sound = not all(problems.values())
    if arguments.json:
        checks = [*map(asdict, found.checks)]
        answer({"profile": arguments.profile, "sound": sound, "problems": problems, "checks": checks})
    else:
        answer("\n".join(_lines(found, problems)))
    return SUCCEEDED if sound else FAILED


def look(*profiles: str) -> Found:
    """Look at this machine, in a process of its own.

    Args:
        profiles: whose weights and stages are looked at.

    Raises:
        LabError: there is no such profile, or the process failed.
    """
    if unknown := [profile for profile in profiles if profile not in PROFILES]:
        raise LabError(f"There is no profile {unknown[0]!r}; there are {', '.join(PROFILES)}.")
    command = [sys.executable, "-m", "wanavatar_lab.cli.doctor", *profiles]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise LabError(f"{' '.join(command)} failed: {said}")
    return Found(tuple(Check(**each) for each in json.loads(done.stdout)))


def look_here(*profiles: str) -> Found:
    """The same in this process, which imports torch."""
    from wanavatar_lab.worker.execute import choose_device

    device, wrong = choose_device(), list[Check]()
    try:
        this_machine(device, most=1)
    except LabError as error:
        device, wrong = "cpu", [Check("machine", "device", "problem", str(error))]
    stages = (_stages(profile, device) for profile in profiles)
    parts = (wrong, _machine(device), _weights(profiles), _extras(device), _ports(), *stages)
    return Found(tuple(each for part in parts for each in part))


def _machine(device: str) -> Iterator[Check]:
    import torch

    machine = this_machine(device)
    yield Check(
        "machine", "system", "ok", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"
    )
    free = "unknown" if machine.host_free is None else amount(machine.host_free)
    yield Check("machine", "CPU", "ok", f"{os.cpu_count()} cores, {free} of main memory free")
    for gpu in machine.gpus:
        yield Check("machine", "GPU", "ok", f"{gpu.name}: {amount(gpu.free)} of {amount(gpu.total)} free")
    driver = _driver()
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "the CPU alone"
    if machine.gpus:
        yield Check("machine", "driver", "ok", f"{driver or 'unknown'}; torch is built for {built}")
    elif driver and read_settings().device == "cpu":
        yield Check("machine", "GPU", "note", "not used: WANAVATAR_DEVICE is cpu", "Unset it to compute on the GPU.")
    elif driver:
        advice = "Install a driver for this CUDA or a newer one, or set CUDA_VISIBLE_DEVICES to the GPU."
        if not torch.version.cuda:
            advice = "Install torch with CUDA: make setup does on Linux."
        yield Check("machine", "GPU", "problem", f"driver {driver}, but torch, built for {built}, sees no GPU", advice)
    else:
        yield Check("machine", "GPU", "note", "none that torch sees: stages run on the CPU")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    yield Check("machine", "versions", "ok", versions)
    yield _disk("runs", runs_folder(), "WANAVATAR_RUNS_DIR", "problem")
    yield _disk("weights folder", read_settings().weights_dir.absolute(), "WANAVATAR_WEIGHTS", "note")


def _driver() -> str:
    """The release of NVIDIA's driver, and the GPUs that it lists; empty without one."""
    with suppress(OSError, subprocess.SubprocessError):
        command = ["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"]
        # 20 s: with many GPUs and without the persistence daemon it takes seconds
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return "; ".join(done.stdout.split("\n")).strip("; ")
    return ""


def _disk(name: str, folder: Path, variable: str, worst: Literal["note", "problem"]) -> Check:
    """Whether a folder, or the one that it will be made in, is writable and has room."""
    existing = next(each for each in (folder, *folder.parents) if os.path.lexists(each))
    if not os.path.isdir(existing):
        text = f"{existing} is no folder, or a link to one that is not there"
        return Check(
            "machine", name, worst, text, f"Mount its disk, move it away, or set {variable} to another folder."
        )
    free = shutil.disk_usage(existing).free
    text = f"{folder}, {amount(free)} free"
    if not os.access(existing, os.W_OK):
        return Check("machine", name, worst, f"{text}; not writable", f"Set {variable} to a folder of your own.")
    if free < LEAST_ROOM:
        return Check("machine", name, worst, text, f"Free some space there, or set {variable} to another disk.")
    return Check("machine", name, "ok", text)


def _weights(profiles: Collection[str]) -> Iterator[Check]:
    folder = read_settings().weights_dir.absolute()
    for which in WEIGHTS.values():
        found = look_at(which, folder)
        needed = next((profile for profile, _ in which.needed_by if profile in profiles), "")
        text = f"{found.state:<10} {amount(found.size or which.size):>10}  {found.path}"
        if found.missing:
            text += f"\n    missing: {', '.join(found.missing)}"
        advice = "" if found.state == "present" else f"download with: wanavatar-lab weights download {which.name}"
        if advice and which.ships:
            advice = "bring back with: git checkout -- weights/pocket"
        state: State = "ok" if not advice else "problem" if needed else "note"
        yield Check("weights", which.name, state, text, advice, needed)


def _extras(device: str) -> Iterator[Check]:
    for package, (use, install) in EXTRAS.items():
        try:
            yield Check("extras", package, "ok", f"{importlib.metadata.version(package)}, for {use}")
        except importlib.metadata.PackageNotFoundError:
            yield Check("extras", package, "note", f"not installed; only for {use}", install)
    if shutil.which("ffmpeg") is None:
        yield Check("extras", "ffmpeg", "note", "no such program on PATH; only for separating vocals")
    else:
        yield Check("extras", "ffmpeg", "ok", "on PATH, for separating vocals")
    if device.partition(":")[0] == "cpu":
        yield Check("extras", "attention sdpa", "ok", "can be used; the other backends need a GPU")
        return
    from wanavatar_lab.wan.attention import lacks  # imports diffusers, which takes seconds

    for name, why_not in lacks(device).items():
        yield Check("extras", f"attention {name}", "note" if why_not else "ok", why_not or "can be used")


def _ports() -> Iterator[Check]:
    for port, (use, other) in PORTS.items():
        with socket.socket() as tried:
            try:
                tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: one that has just ended
                tried.bind(("127.0.0.1", port))
                yield Check("ports", str(port), "ok", f"free, for {use}")
            except OSError as error:
                advice = f"Use another one, as in {use.split(' and ')[0]} {other}."
                yield Check("ports", str(port), "note", f"cannot be used for {use}: {error.strerror}", advice)


def _stages(profile: str, device: str) -> Iterator[Check]:
    machine = this_machine(device)
    for stage in PROFILES[profile].locations:
        try:
            settings = read_settings()
            made = plan(profile, usual_workload(stage, profile), machine, settings.weights_dir, gpus=settings.gpus)
        except LabError as error:
            yield Check("stages", stage, "problem", str(error), profile=profile)
            continue
        work, choice = made.workload, made.choice
        frames = f", {work.frames} frames" if work.frames > 1 else ""
        gpu = "" if choice.peak_gpu_bytes is None else f"{amount(choice.peak_gpu_bytes)} of GPU memory, "
        steps = f"{work.steps} {'step' if work.steps == 1 else 'steps'}"
        time = "" if made.seconds is None else f"; about {made.seconds:.0f} s, an estimate"
        size = f"{work.width}x{work.height}{frames}, " if work.pixels else ""
        text = f"{size}{steps}: {gpu}{amount(choice.host_bytes)} of main memory{time}"
        text = f"{text}\n    offload {choice.mode}: {choice.reason}"
        yield Check("stages", stage, "ok", text, profile=profile)


def _lines(found: Found, problems: Mapping[str, list[str]]) -> Iterator[str]:
    """The checks in their sections, and a line for each profile with the names of its problems."""
    parts = [(section, "") for section in SECTIONS[:-1]] + [(SECTIONS[-1], profile) for profile in problems]
    for section, profile in parts:
        yield f"{section}, profile {profile}:" if profile else f"{section}:"
        for each in found.checks:
            if each.section == section and profile in ("", each.profile):
                yield "\n".join(
                    f"{_MARKS[each.state] if number == 0 else '      '} {line}"
                    for number, line in enumerate(str(each).splitlines())
                )
    for profile, names in problems.items():
        count = f"{len(names) or 'no'} problem{'s' * (len(names) != 1)}"
        yield f"profile {profile}: {count}{': ' * bool(names)}{', '.join(names)}."


if __name__ == "__main__":
    try:
        checks = [asdict(each) for each in look_here(*sys.argv[1:]).checks]
    except LabError as error:
        sys.exit(str(error))
    sys.stdout.write(json.dumps(checks) + "\n")
