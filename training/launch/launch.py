"""Start a training that outlives who started it, watch it, stop it, and find it again.

    python -m training.launch --recipe s2v_14b_2gpu --samples data/me/samples --run runs/training/me \\
        --with zero2 --processes 2
    python -m training.launch --state runs/training/me
    python -m training.launch --stop runs/training/me

A run is started by `accelerate launch` in a process group of its own, under a process that waits for its end
(`training.launch.supervisor`), so a notebook's kernel may die. torchrun gives each process that trains a group of
its own again; what a run's processes have in common is a variable of their environment, and by that stopping reaches
every one.
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

from training.config.arguments import add_config, config_of
from training.config.config import TrainingConfig
from training.launch.folder_locks import is_trained_in
from training.launch.processes import CONFIGS, ENDED, LAUNCHED, MARK, PATIENCE, TOLD, Launcher, processes_of, send
from wanavatar_lab.errors import LabError
from wanavatar_lab.files import write_json, write_text

State = Literal["absent", "running", "finished", "stopped", "failed"]


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
    if state(run).state == "running" or is_trained_in(run):
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
    command = [sys.executable, "-m", "training.launch.supervisor", str(run), launcher, str(processes), module]
    keeper = subprocess.Popen(
        command,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {MARK: str(run)},
        cwd=Path(__file__).resolve().parents[2],
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
    send(_who_saves(run), signal.SIGTERM)
    deadline = time.monotonic() + patience
    # who is ending has no environment any more, and yet is there for a moment
    while ((left := processes_of(run)) or _keeper(run)) and time.monotonic() < deadline:
        time.sleep(0.1)
    if left:
        send(left, signal.SIGKILL)
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


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m training.launch", description=__doc__.splitlines()[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--stop", type=Path, metavar="RUN", help="instead of starting one")
    what.add_argument("--state", type=Path, metavar="RUN", help="how it stands")
    add_config(parser)
    parser.add_argument("--with", dest="launcher", choices=("plain", *CONFIGS), default="plain")
    parser.add_argument("--processes", type=int, default=1, help="one for each GPU")
    given = parser.parse_args(argv)
    try:
        if given.stop or given.state:
            found = stop(given.stop) if given.stop else state(given.state)
        else:
            found = start(config_of(given), given.launcher, given.processes)
    except (LabError, ValueError) as error:
        raise SystemExit(str(error)) from error
    print(f"{found.state}{': ' if found.why else ''}{found.why}")
