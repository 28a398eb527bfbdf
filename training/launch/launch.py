"""Start a training in the background, watch it, stop it, and find it again later.

    python -m training.launch --recipe s2v_14b_2gpu --samples data/me/samples --run runs/training/me \\
        --with zero2 --processes 2
    python -m training.launch --state runs/training/me
    python -m training.launch --stop runs/training/me

A run outlives the process that starts it, a notebook's kernel for example: a supervisor (`training.launch.supervisor`)
in a session of its own runs `accelerate launch` and records how it ended. torchrun puts each training process into a
process group of its own, so a run's processes are found by an environment variable instead (`processes_of`).

A run is stopped by SIGTERM, which every training process answers with a checkpoint of the last completed step.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import psutil  # type: ignore[import-untyped]

from training.config import TrainingConfig
from training.config.arguments import add_config, config_of
from training.launch.folder_locks import is_trained_in
from training.launch.processes import CONFIGS, ENDED, LAUNCHED, MARK, PATIENCE, TOLD, Launcher, processes_of, send
from wanavatar_lab.errors import LabError
from wanavatar_lab.files import write_json, write_text

State = Literal["not started", "running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Ending:
    """The state of a run.

    Attributes:
        state: "not started" if it was never launched.
        why: the reason, if it failed.
    """

    state: State
    why: str = ""


def start(
    config: TrainingConfig, launcher: Launcher = "plain", processes: int = 1, module: str = "training.train"
) -> Ending:
    """Start or resume a run; returns when its supervisor has started.

    Args:
        config: its `run` is the folder by which the run is found again.
        launcher: "plain" is one process without accelerate's launcher; the others are files of `training/configs`.
        processes: on this machine; one per GPU.
        module: the program that trains; it takes `--config`.

    Raises:
        LabError: the run is running, or the launcher does not start so many processes.
    """
    run = config.run.absolute()
    if state(run).state == "running" or is_trained_in(run):
        raise LabError(f"The run in {run} is running already. Stop it first, or give this one another folder.")
    if processes < 1:
        raise LabError(f"{processes} processes are too few: give 1 or more.")
    if launcher == "plain" and processes != 1:
        raise LabError(f"{processes} processes need a launcher: {', '.join(CONFIGS)}.")
    run.mkdir(parents=True, exist_ok=True)
    # the supervisor has another working directory
    places = {name: place.absolute() for name in ("samples", "run", "init_from") if (place := getattr(config, name))}
    write_text(run / TOLD, config.model_copy(update=places).model_dump_json(indent=1) + "\n")
    (run / ENDED).unlink(missing_ok=True)
    supervisor = subprocess.Popen(
        [sys.executable, "-m", "training.launch.supervisor", str(run), launcher, str(processes), module],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {MARK: str(run)},
        cwd=Path(__file__).resolve().parents[2],
    )
    started = psutil.Process(supervisor.pid).create_time()
    write_json(run / LAUNCHED, {"pid": supervisor.pid, "started": started, "processes": processes})
    return state(run)


def stop(run: Path, patience: float = PATIENCE) -> Ending:
    """Stop a run after a checkpoint of its last completed step; processes that take longer than `patience` are killed.

    Args:
        patience: seconds.

    Raises:
        LabError: the run is not running.
    """
    if state(run).state != "running":
        raise LabError(f"The run in {run} is not running, so there is nothing to stop.")
    # Not to torchrun, which would pass SIGTERM on and kill its processes half a minute later, in the middle of their
    # checkpoint. Without a launcher, or before it has started anything, no process has a rank: then to all.
    everyone, supervisor = processes_of(run), _supervisor(run)
    ranks = []
    for process in everyone:
        with suppress(psutil.Error):
            if "RANK" in process.environ():
                ranks.append(process)
    send([*ranks, *([supervisor] if supervisor else [])] if ranks else everyone, signal.SIGTERM)
    deadline = time.monotonic() + patience
    # a process that is exiting has lost its environment and cannot be found by it, so the supervisor is asked for too
    while ((left := processes_of(run)) or _supervisor(run)) and time.monotonic() < deadline:
        time.sleep(0.1)
    send(left, signal.SIGKILL)
    # the supervisor writes no file if it is killed, here or before, or if it had not installed its handler yet
    if left or not (run / ENDED).is_file():
        why = f"It had to be killed after {patience:.0f} s." if left else ""
        write_json(run / ENDED, {"state": "stopped", "why": why})
    return state(run)


def state(run: Path) -> Ending:
    """The state of a run, by its folder."""
    if _supervisor(run) is not None:
        return Ending("running")
    if (run / ENDED).is_file():
        return Ending(**json.loads((run / ENDED).read_text()))
    if not (run / LAUNCHED).is_file():
        return Ending("not started")
    if processes_of(run):  # only the supervisor was killed
        return Ending("running")
    return Ending("failed", "Its processes were killed, or the machine went down. Start it again to resume it.")


def _supervisor(run: Path) -> psutil.Process | None:
    """The run's supervisor, if it is alive."""
    if not (run / LAUNCHED).is_file():
        return None
    noted: dict[str, Any] = json.loads((run / LAUNCHED).read_text())
    try:
        process = psutil.Process(noted["pid"])
        # the system may have given the process id to another process since
        same = process.create_time() == noted["started"] and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if same else None


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.launch", description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--stop", type=Path, metavar="RUN", help="stop a run after a checkpoint")
    what.add_argument("--state", type=Path, metavar="RUN", help="print the state of a run")
    add_config(parser)
    parser.add_argument("--with", dest="launcher", choices=("plain", *CONFIGS), default="plain")
    parser.add_argument("--processes", type=int, default=1, help="one per GPU")
    given = parser.parse_args(argv)
    try:
        if given.stop or given.state:
            found = stop(given.stop) if given.stop else state(given.state)
        else:
            found = start(config_of(given), given.launcher, given.processes)
    except (LabError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print(f"{found.state}{': ' if found.why else ''}{found.why}")
