"""A launched run as others find it: files in its folder, and a mark in the environment of its processes.

<run>/told.json       the settings, which `training.train` reads
      launch.json     the supervisor's process, when it started, and how many processes train
      launch.log      what all processes print; launch.previous.log, what they printed after the start before
      ended.json      how the run ended; absent while it runs
      failures.jsonl  why training processes failed, a line each, start after start; without a launcher too

Imports no torch: notebooks watch runs through it.
"""

import json
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psutil  # type: ignore[import-untyped]

TOLD, LAUNCHED, LOG, ENDED = "told.json", "launch.json", "launch.log", "ended.json"
PREVIOUS_LOG, FAILURES = "launch.previous.log", "failures.jsonl"
MARK = "WANAVATAR_TRAINING_RUN"  # environment variable of every process of a run: the run's folder
STOP_CODE = 128 + signal.SIGTERM  # exit code of a run that SIGTERM stopped after a checkpoint, as shells write it
PATIENCE = 300.0  # seconds from SIGTERM to SIGKILL: a step of a large network, a checkpoint, a validation

Launcher = Literal["plain", "ddp", "fsdp2", "zero2"]
CONFIGS = {path.stem: path for path in sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))}
ONE = CONFIGS.pop("one")  # for `accelerate launch` by hand: here one process needs no launcher


def processes_of(run: Path) -> list[psutil.Process]:
    """All living processes of a run on this machine, in whichever process group they are."""
    found, mark = [], str(run.absolute())
    for process in psutil.process_iter():
        # a process that has ended or belongs to another user cannot be read, and is none of the run's
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def send(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to those that still exist."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def note_failure(run: Path, why: str, rank: int | None) -> None:
    """Add to a run's failures why it failed; a full disk or a lost folder does not replace that reason.

    Args:
        rank: of the process that says so; None if it is the supervisor.
    """
    line = json.dumps({"time": round(time.time(), 3), "rank": rank, "why": why})
    with suppress(OSError), open(run / FAILURES, "a", encoding="utf-8") as stream:
        stream.write(line + "\n")


def failures_since(run: Path, began: float) -> dict[int, str]:
    """Why training processes of a run failed since a time in seconds since 1970, by rank."""
    if not (run / FAILURES).is_file():
        return {}
    found: dict[int, str] = {}
    for line in (run / FAILURES).read_text(encoding="utf-8", errors="replace").splitlines():
        with suppress(ValueError, KeyError, TypeError):  # a line that a full disk cut short
            noted = json.loads(line)
            if noted["time"] >= began and noted["rank"] is not None:
                found[int(noted["rank"])] = str(noted["why"])
    return found


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
