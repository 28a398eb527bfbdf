"""A launched run as others find it: files in its folder, and a mark in the environment of its processes.

<run>/told.json       the settings, which `training.train` reads
      launch.json     the supervisor's process, when it started, and how many processes train
      launch.log      what all processes print; launch.previous.log, what they printed after the start before
      ended.json      how the run ended; absent while it runs
      failures.jsonl  why training processes failed, a line each, start after start; without a launcher too
      machines/1/     of a run on several machines what machine 1 says of itself (state.json, see
                      `training.launch.machine_states`), its launch.log and its failures.jsonl: files that one machine
                      alone writes, since appending from two to one file loses lines on NFS
      stop.json       asks all machines to stop

Imports no torch: notebooks watch runs through it.
"""

import json
import os
import signal
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil  # type: ignore[import-untyped]

TOLD, LAUNCHED, LOG, ENDED = "told.json", "launch.json", "launch.log", "ended.json"
PREVIOUS_LOG, FAILURES = "launch.previous.log", "failures.jsonl"
MACHINES, STOP = "machines", "stop.json"
MARK = "WANAVATAR_TRAINING_RUN"  # environment variable of every process of a run: the run's folder
MACHINE = "WANAVATAR_TRAINING_MACHINE"  # and of those that train on one of several machines: its number, from 0
STOP_CODE = 128 + signal.SIGTERM  # exit code of a run that SIGTERM stopped after a checkpoint, as shells write it
PATIENCE = 300.0  # seconds from SIGTERM to SIGKILL: a step of a large network, a checkpoint, a validation

Launcher = Literal["plain", "ddp", "fsdp2", "zero2"]
CONFIGS = {path.stem: path for path in sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))}
ONE = CONFIGS.pop("one")  # for `accelerate launch` by hand: here one process needs no launcher


@dataclass(frozen=True)
class Plan:
    """How a run is started on several machines.

    Attributes:
        count: of machines.
        names: of the machines, if they are known here.
        address: of machine 0, where the processes of all meet.
        port: there.
        launch: a name of this start.
        starts: numbers of the machines whose supervisors the leading one starts.
    """

    count: int
    names: tuple[str, ...]
    address: str
    port: int
    launch: str = ""
    starts: tuple[int, ...] = ()

    def name_of(self, number: int) -> str:
        """The name of a machine; without names this one's, which alone asks."""
        return self.names[number] if self.names else socket.gethostname()


class StopSignal:
    """Whether one of these signals was sent to this process; `launch.stop` sends SIGTERM to all processes of a run."""

    def __init__(self, *signals: signal.Signals) -> None:
        self.received = False
        for each in signals or (signal.SIGTERM,):
            signal.signal(each, self._receive)

    def _receive(self, *_: object) -> None:
        self.received = True


def processes_of(run: Path, machine: int | None = None) -> list[psutil.Process]:
    """All living processes of a run on this machine, in whichever process group they are.

    Args:
        machine: only those of this number, where one machine stands for several.
    """
    return [process for process in psutil.process_iter() if is_of(process, run, machine)]


def is_of(process: psutil.Process, run: Path, machine: int | None = None) -> bool:
    """Whether a process lives and is one of a run's, as for `processes_of`."""
    try:
        marks = {} if process.status() == psutil.STATUS_ZOMBIE else process.environ()
    except psutil.Error:  # it has ended, or belongs to another user
        return False
    if MARK not in marks or (machine is not None and marks.get(MACHINE) != str(machine)):
        return False
    # the same folder may be named by a link to it, or by way of another one
    return os.path.realpath(marks[MARK]) == os.path.realpath(run)


def ranks_among(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that train, as a launcher has started them."""
    found = []
    for process in processes:
        with suppress(psutil.Error):
            if "RANK" in process.environ():
                found.append(process)
    return found


def send(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to those that still exist."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def folder_of_machine(run: Path, number: int) -> Path:
    """Where a machine of a run writes its own files."""
    return run / MACHINES / str(number)


def keep_previous_log(place: Path) -> None:
    """Keep the log of the start before: why a run failed is looked for after it was started again."""
    if (place / LOG).is_file():
        os.replace(place / LOG, place / PREVIOUS_LOG)


def note_failure(run: Path, why: str, rank: int | None) -> None:
    """Add to the failures of a run, or of this machine in it, why it failed.

    A full disk or a lost folder does not replace that reason.

    Args:
        rank: of the process that says so; None if it is the supervisor.
    """
    line = json.dumps({"time": round(time.time(), 3), "rank": rank, "why": why})
    place = folder_of_machine(run, int(os.environ[MACHINE])) if MACHINE in os.environ else run
    with suppress(OSError), open(place / FAILURES, "a", encoding="utf-8") as stream:
        stream.write(line + "\n")


def failures_since(place: Path, began: float) -> dict[int, str]:
    """Why training processes failed since a time in seconds since 1970, by rank.

    Args:
        place: the run's folder, or that of a machine in it.
    """
    if not (place / FAILURES).is_file():
        return {}
    found: dict[int, str] = {}
    for line in (place / FAILURES).read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, KeyError, TypeError):  # a line that a full disk cut short
            noted = json.loads(line)
            if noted["time"] >= began and noted["rank"] is not None:
                found[int(noted["rank"])] = str(noted["why"])
    return found


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
