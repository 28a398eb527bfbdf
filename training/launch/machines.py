"""The machines of a run: which they are, how commands reach them, and whether they can train together.

A hostfile has a machine a line, as DeepSpeed's: `gpu1 slots=8`. Machines are reached by ssh without a password, this
one without ssh. All have the repository and Python at the same places, and share the folders of run and samples.

    python -m training.launch.machines TOKEN SAMPLES PROFILE FIRST      # what this machine says of itself, as JSON

Imports torch only for that.
"""

import hashlib
import json
import os
import platform
import re
import secrets
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import LabError
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.settings import read_settings

ROOT = Path(__file__).resolve().parents[2]
# no question, which nobody would answer, and an end half a minute after the other machine was last heard of
SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=10")
ANSWER = 120.0  # seconds for a machine to say what it has: importing torch from a slow disk takes most of them
# Variables that other machines get too, as ssh passes none on. None with a secret: command lines can be read by others.
PASSED_ON = re.compile(
    r"(NCCL|GLOO|TORCH|PYTORCH|ATEN|ONEDNN|MKL|WANAVATAR)_\w+|OMP_NUM_THREADS|PYTHONPATH|HF_HOME|HF_HUB_OFFLINE"
)
SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSWORD")
PACKAGES = ("torch", "accelerate", "deepspeed", "diffusers", "transformers", "safetensors")
PORTS = range(20_000, 30_000)  # below those that systems give out, from 32768 or 49152 on
_LINE = re.compile(r"(?P<name>[A-Za-z0-9_][\w.@:-]*)(?:\s+slots\s*=\s*(?P<slots>\d+))?")

# what is wrong if a machine says another thing than the first, by the name of what it says
_DIFFERENT = {
    "code": "has other code (commit {mine}, and {theirs} there): bring both to the same",
    "packages": "has other releases ({mine}, and {theirs} there): install the same",
    "device": "computes on {mine}, and the first on {theirs}",
    "samples": "sees other samples in {place}: share that folder, or copy it whole",
    "weights": "{mine} the network's weights in {place}, and the first {theirs} them: download them there too",
}


@dataclass(frozen=True)
class Machine:
    """A machine of a run.

    Attributes:
        name: as ssh and the other machines know it.
        slots: processes on it, one per GPU; None if the hostfile does not say.
    """

    name: str
    slots: int | None = None

    @property
    def address(self) -> str:
        """The name without a user, for those who connect to it without ssh."""
        return self.name.rpartition("@")[2]


def read_machines(told: str) -> list[Machine]:
    """The machines of a hostfile, or of a text like one, in which a comma also ends a line; none if it is empty.

    Args:
        told: path of the file, or the text, such as `gpu1 slots=8, gpu2 slots=8`; one word is a path.

    Raises:
        LabError: a line is no machine, or the file does not exist; the text says which.
    """
    told = told.strip()
    is_file = os.path.isfile(told) or not re.search(r"[\s,]", told)  # one word may be a mistyped path
    if told and is_file:
        try:
            text = Path(told).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise LabError(f"The hostfile {told} cannot be read: {error}.") from error
    else:
        text = told
    found = []
    for line in re.split(r"[\n,]", text):
        if not (line := line.partition("#")[0].strip()):
            continue
        if not (match := _LINE.fullmatch(line)) or match["slots"] == "0":
            raise LabError(f"{line!r} is no machine: write a name and its number of GPUs, as gpu1 slots=8.")
        found.append(Machine(match["name"], int(match["slots"]) if match["slots"] else None))
    if told and not found:
        raise LabError(f"There is no machine in {told!r}: write one a line, as gpu1 slots=8.")
    return found


def processes_on_each(machines: Sequence[Machine], processes: int) -> int:
    """How many processes each machine has.

    Args:
        processes: where the hostfile does not say.

    Raises:
        LabError: machines have different numbers, which accelerate cannot start.
    """
    slots = {machine.slots or processes for machine in machines}
    if len(slots) > 1:
        each = ", ".join(f"{machine.name} {machine.slots or processes}" for machine in machines)
        raise LabError(
            f"All machines need the same number of processes: {each}. Write slots={min(slots)} for each of them."
        )
    return slots.pop()


def is_local(name: str) -> bool:
    """Whether a name is this machine's."""
    if name in ("localhost", socket.gethostname(), socket.getfqdn()):
        return True
    try:
        family, *_, address = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, socket.SOCK_STREAM) as own:
            own.bind(address)  # only an address of one's own can be bound
    except OSError:
        return False
    return True


def is_loopback(name: str) -> bool:
    """Whether a name is every machine's own."""
    return name in ("localhost", "::1") or name.startswith("127.")


def command_on(machine: str, words: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
    """The command that runs `words` in the repository on a machine.

    Args:
        machine: its name; this one needs no ssh.
        environment: variables that another machine gets beside `PASSED_ON`; on this one the caller sets them.
    """
    if is_local(machine):
        return list(words)
    passed = {
        name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name) and not SECRET.search(name)
    }
    given = [f"{name}={value}" for name, value in (passed | dict(environment or {})).items()]
    return [*SSH, machine, f"cd {shlex.quote(str(ROOT))} && exec env {shlex.join([*given, *words])}"]


def check_machines(machines: Sequence[Machine], processes: int, run: Path, samples: Path, profile: str) -> int:
    """Ask all machines what they have; gives a port that is free on the first.

    Args:
        processes: on each.
        run: has to be the same folder on all.
        samples, profile: what is trained on, and what is trained.

    Raises:
        LabError: they cannot train together; the text names every machine and what to do.
    """
    token = run / f".shared-{secrets.token_hex(8)}"
    token.write_text(token.name)
    names = list(dict.fromkeys(machine.name for machine in machines))
    words = [sys.executable, "-m", "training.launch.machines", str(token), str(samples), profile, machines[0].address]
    try:
        with ThreadPoolExecutor(len(names)) as pool:
            answers = dict(zip(names, pool.map(lambda name: _ask(name, words), names), strict=True))
    finally:
        token.unlink(missing_ok=True)
    problems = [f"{name}: {said}" for name, said in answers.items() if isinstance(said, str)]
    known = {name: said for name, said in answers.items() if not isinstance(said, str)}
    first = next(iter(known.values()), {})
    for name, said in known.items():
        if not said["token"]:
            problems.append(f"{name} does not see the run's folder {run}: put it on a disk that all machines share")
        if not said["knows_first"]:
            problems.append(
                f"{name} does not know {machines[0].address}, where the processes of all meet: write the first machine "
                "by a name or an address that all can resolve, and not only ssh here"
            )
        there = sum(machine.name == name for machine in machines) * processes
        if said["gpus"] and there > said["gpus"]:
            problems.append(f"{name} has {said['gpus']} GPUs, too few for {there} processes")
        problems += [f"{name} {problem}" for problem in differences(said, first)]
    if problems:
        raise LabError(f"These machines cannot train together. {'. '.join(problems)}.")
    return int(first["port"])


def _ask(name: str, words: Sequence[str]) -> dict[str, Any] | str:
    """What a machine says of itself, or why it says nothing."""
    command = command_on(name, words)
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=ANSWER, check=False
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {ANSWER:.0f} s"
    except FileNotFoundError:
        return f"there is no {command[0]} here, to reach it: install OpenSSH's client"
    with suppress(ValueError, IndexError):
        said = json.loads(done.stdout.splitlines()[-1])
        if isinstance(said, dict):
            return said
    why = next((line.strip() for line in reversed(done.stderr.splitlines()) if line.strip()), "no output")
    if command[0] == "ssh" and done.returncode == 255:
        return f"ssh does not reach it ({why}). `ssh {name} true` has to work without a question: ssh-copy-id {name}"
    return f"`{shlex.join(words[:3])}` failed there ({why}). It needs this repository in {ROOT} and {words[0]}"


def facts(samples: Path, profile: str) -> dict[str, Any]:
    """What this machine has that has to be alike on all machines of a run: code, releases, samples, weights, device."""
    import torch  # here, since notebooks check machines and never load torch

    weights = PROFILES[profile].weights(SpeechToVideo.stage, read_settings().weights_dir)
    releases = {"python": platform.python_version()} | {name: _release(name) for name in PACKAGES}
    return {
        "code": [_commit(), _digest(*sorted([*ROOT.glob("training/**/*.py"), *ROOT.glob("wanavatar_lab/**/*.py")]))],
        "packages": releases,
        "device": "a GPU" if torch.cuda.is_available() else "its CPU",
        "gpus": torch.cuda.device_count(),
        "samples": [str(samples), _digest(samples / "samples.json"), _sizes(samples)],
        "weights": [str(weights), weights.is_dir()],
    }


def differences(mine: Mapping[str, Any], first: Mapping[str, Any]) -> list[str]:
    """What a machine has that differs from what the first has, in words that follow its name."""
    found = []
    for name, words in _DIFFERENT.items():
        said, theirs, place = mine[name], first[name], ""
        if said == theirs:
            continue
        if name == "packages":
            other = [package for package in said if said[package] != theirs[package]]
            said, theirs = (", ".join(f"{package} {each[package]}" for package in other) for each in (said, theirs))
        elif name == "code":
            said, theirs = (each[0] + (", changed" if said[0] == theirs[0] else "") for each in (said, theirs))
        elif name == "weights":
            place, said, theirs = said[0], *("has" if each[1] else "lacks" for each in (said, theirs))
        elif name == "samples":
            place = said[0]
        found.append(words.format(mine=said, theirs=theirs, place=place))
    return found


def resolves(name: str) -> bool:
    """Whether this machine knows the address of a name."""
    try:
        return bool(socket.getaddrinfo(name, 0))
    except OSError:
        return False


def free_port() -> int:
    """A port of this machine that nobody listens on, and that the system gives to nobody who asks for any port.

    It is used some seconds later, when all machines have begun.
    """
    while True:
        port = PORTS.start + secrets.randbelow(len(PORTS))
        with socket.socket() as own, suppress(OSError):
            own.bind(("", port))
            return port


def _commit() -> str:
    """The commit of this repository; a copy without git has none."""
    command = ["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _digest(*files: Path) -> str:
    known = hashlib.sha256()
    for file in files:
        if file.is_file():
            known.update(str(file.name).encode() + b"\0" + file.read_bytes())
    return known.hexdigest()[:16]


def _sizes(folder: Path) -> list[int]:
    """How many samples a folder has, and their bytes."""
    sizes = [file.stat().st_size for file in folder.glob("*.safetensors")]
    return [len(sizes), sum(sizes)]


def _release(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    _, token, samples, profile, first = sys.argv
    said = facts(Path(samples), profile)
    print(json.dumps(said | {"token": Path(token).is_file(), "knows_first": resolves(first), "port": free_port()}))
