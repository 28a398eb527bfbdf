"""Start a training that outlives who started it, watch it, stop it, and find it again.

    python -m training.launch --config run.json --with zero2 --processes 2
    python -m training.launch --stop runs/training/me

A run is started by `accelerate launch` in a process group of its own, under a process that waits for its end and writes
down how it was, so a notebook's kernel may die. torchrun gives each process that trains a group of its own again;
what a run's processes have in common is a variable of their environment, and by that stopping reaches every one.

<run>/told.json     what `training.train` is told
      launch.json   who waits for the run: its process, when it was started, and how many processes train
      launch.log    what all processes print
      ended.json    how the run ended; not there while it goes on
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import psutil  # type: ignore[import-untyped]
import torch

from training.config import TrainingConfig
from training.stopping import CODE
from wanavatar_lab.errors import LabError
from wanavatar_lab.files import write_json, write_text

CONFIGS = {path.stem: path for path in sorted((Path(__file__).parent / "configs").glob("*.yaml"))}
MARK = "WANAVATAR_TRAINING_RUN"  # in the environment of every process of a run: the run's folder
TOLD, LAUNCHED, LOG, ENDED = "told.json", "launch.json", "launch.log", "ended.json"
PATIENCE = 300.0  # seconds from SIGTERM to SIGKILL: a step of a large network, a checkpoint, a validation
LEFT_ALONE = 40.0  # seconds that processes have to end when one of them has died

State = Literal["absent", "running", "finished", "stopped", "failed"]
Launcher = Literal["plain", "ddp", "fsdp2", "zero2"]


@dataclass(frozen=True)
class Ending:
    """How a run stands.

    Attributes:
        state: "absent" where nothing was ever started.
        why: of a failed one, in a sentence.
    """

    state: State
    why: str = ""


def start(
    config: TrainingConfig, launcher: Launcher = "plain", processes: int = 1, module: str = "training.train"
) -> Ending:
    """Start a run, or go on with it; returns when it is on its way.

    Args:
        config: its `run` is the folder by which it is found again.
        launcher: "plain" is one process without accelerate's launcher; the others are files of `training/configs`.
        processes: on this machine; one for each GPU.
        module: that is run; it takes `--config`.

    Raises:
        LabError: the run goes on already, or there cannot be so many processes.
    """
    run = config.run.absolute()
    if state(run).state == "running":
        raise LabError(f"The run in {run} goes on already. Stop it first, or give this one another folder.")
    if processes < 1:
        raise LabError(f"{processes} processes are too few: give 1 or more.")
    if launcher == "plain" and processes != 1:
        raise LabError(f"{processes} processes need a launcher: {', '.join(CONFIGS)}.")
    run.mkdir(parents=True, exist_ok=True)
    # what trains has another working folder than who starts it
    places = {name: place.absolute() for name in ("samples", "run", "start") if (place := getattr(config, name))}
    write_text(run / TOLD, config.model_copy(update=places).model_dump_json(indent=1) + "\n")
    (run / ENDED).unlink(missing_ok=True)
    command = [sys.executable, "-m", "training.launch", "--supervise", str(run), "--module", module]
    command += ["--with", launcher, "--processes", str(processes)]
    keeper = subprocess.Popen(
        command,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {MARK: str(run)},
        cwd=Path(__file__).resolve().parents[1],
    )
    started = psutil.Process(keeper.pid).create_time()
    write_json(run / LAUNCHED, {"pid": keeper.pid, "started": started, "processes": processes})
    return state(run)


def stop(run: Path, patience: float = PATIENCE) -> Ending:
    """End a run: every process hears SIGTERM, saves the last whole step, and is killed if it takes too long.

    Raises:
        LabError: the run does not go on.
    """
    if _keeper(run) is None:
        raise LabError(f"The run in {run} does not go on, so there is nothing to stop.")
    _send(_who_saves(run), signal.SIGTERM)
    deadline = time.monotonic() + patience
    # who is ending has no environment any more, and yet is there for a moment
    while ((left := processes_of(run)) or _keeper(run)) and time.monotonic() < deadline:
        time.sleep(0.1)
    if left:
        _send(left, signal.SIGKILL)
        write_json(run / ENDED, {"state": "stopped", "why": f"It had to be killed after {patience:.0f} s."})
    if not (run / ENDED).is_file():  # the signal came before anybody was there to hear it
        write_json(run / ENDED, {"state": "stopped", "why": ""})
    return state(run)


def state(run: Path) -> Ending:
    """How a run stands, for whoever comes back to it."""
    if _keeper(run) is not None:
        return Ending("running")
    if (run / ENDED).is_file():
        return Ending(**json.loads((run / ENDED).read_text()))
    if (run / LAUNCHED).is_file():
        return Ending("failed", "Its processes were killed, or the machine went down. Started again it goes on.")
    return Ending("absent")


def command_of(run: Path, launcher: Launcher, processes: int, module: str) -> list[str]:
    """The command that trains, as one could type it."""
    if launcher == "plain":
        return [sys.executable, "-m", module, "--config", str(run / TOLD)]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS[launcher])]
    # a port that is free: there may be another run on this machine
    told = ["--num_processes", str(processes), "--main_process_port", "0"]
    return [*launch, *told, "-m", module, "--config", str(run / TOLD)]


def environment_of(launcher: Launcher, processes: int) -> dict[str, str]:
    """What is in the environment of the command that trains."""
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment["ACCELERATE_USE_CPU"] = "1"
    if launcher != "plain":
        # launchers give each process one thread, which is slow for an optimizer in main memory
        environment.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // processes)))
    return environment


def _cores() -> int:
    """Those that this process may use, where the system tells; else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def supervise(run: Path, launcher: Launcher, processes: int, module: str) -> int:
    """Run the command to its end, and write down how it was; returns its code."""
    asked = False

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True  # the others of this group have heard it too

    signal.signal(signal.SIGTERM, hear)
    command, environment = command_of(run, launcher, processes, module), environment_of(launcher, processes)
    with open(run / LOG, "wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        code = child.wait()
    # the launcher may go before the processes that it launched
    deadline = time.monotonic() + (PATIENCE if asked else LEFT_ALONE)
    while (left := _others(run)) and time.monotonic() < deadline:
        time.sleep(0.1)
    _send(left, signal.SIGKILL)
    how = "stopped" if asked or code == CODE else "finished" if code == 0 else "failed"
    said = (run / LOG).read_text(errors="replace")
    write_json(run / ENDED, {"state": how, "why": why_failed(said, code) if how == "failed" else ""})
    return code


def why_failed(said: str, code: int) -> str:
    """Which process ended a run, and how, from what its launcher printed; else the last line of all."""
    rank = re.search(r"Root Cause.*?rank\s*:\s*(\d+).*?exitcode\s*:\s*(-?\d+)\s*\(pid:\s*(\d+)\)", said, re.DOTALL)
    if rank:
        number, code, pid = (int(group) for group in rank.groups())
        return f"Rank {number} (process {pid}) {_how(code)}, and the run ended with it. See {LOG}."
    lines = [line for line in said.splitlines() if line.strip()]
    return f"The training {_how(code)}: {lines[-1].strip() if lines else 'it said nothing'}"


def processes_of(run: Path) -> list[psutil.Process]:
    """All living processes of a run on this machine, whichever group they are in."""
    found, mark = [], str(run.absolute())
    for process in psutil.process_iter():
        # what ended meanwhile, or belongs to somebody else, is none of them
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def _who_saves(run: Path) -> list[psutil.Process]:
    """Those of a run's processes that SIGTERM is for: who waits for its end, and who trains.

    torchrun is not among them. It would pass the signal on, and kill after half a minute whoever is not done by then.
    """
    all_of_them, keeper = processes_of(run), _keeper(run)
    ranks = []
    for process in all_of_them:
        with suppress(psutil.Error):
            if "RANK" in process.environ():
                ranks.append(process)
    # without a launcher, or before it has launched anything, there are none
    return [*ranks, *([keeper] if keeper else [])] if ranks else all_of_them


def _how(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with code {code}"


def _keeper(run: Path) -> psutil.Process | None:
    """The process that waits for a run's end, if it is there."""
    if not (run / LAUNCHED).is_file():
        return None
    noted: dict[str, Any] = json.loads((run / LAUNCHED).read_text())
    try:
        process = psutil.Process(noted["pid"])
        # a number is given again to another process sooner or later
        same = process.create_time() == noted["started"] and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same else None


def _others(run: Path) -> list[psutil.Process]:
    return [process for process in processes_of(run) if process.pid != os.getpid()]


def _send(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            process.send_signal(number)


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.launch", description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", type=Path, help="a JSON file with fields of training.config.TrainingConfig: start it")
    what.add_argument("--stop", type=Path, metavar="RUN")
    what.add_argument("--state", type=Path, metavar="RUN")
    what.add_argument("--supervise", type=Path, metavar="RUN", help=argparse.SUPPRESS)
    parser.add_argument("--with", dest="launcher", choices=("plain", *CONFIGS), default="plain")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--module", default="training.train", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.supervise:
        raise SystemExit(supervise(given.supervise, given.launcher, given.processes, given.module))
    try:
        if given.config:
            config = TrainingConfig(**json.loads(given.config.read_text()))
            found = start(config, given.launcher, given.processes, given.module)
        else:
            found = stop(given.stop) if given.stop else state(given.state)
    except (LabError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print(f"{found.state}{': ' if found.why else ''}{found.why}")


if __name__ == "__main__":
    main()
