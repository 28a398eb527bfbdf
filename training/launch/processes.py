"""The processes of a run that was started by a launcher, and the files by which those who start and watch it know them.

<run>/told.json     what `training.train` is told
      launch.json   who waits for the run: its process, when it was started, and how many processes train
      launch.log    what all processes print
      ended.json    how the run ended; not there while it goes on

How many processor cores there are to compute with.
"""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import psutil  # type: ignore[import-untyped]


def usable_cores() -> int:
    """Those that this process may use, where the system tells; else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


CONFIGS = {path.stem: path for path in sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))}
MARK = "WANAVATAR_TRAINING_RUN"  # in the environment of every process of a run: the run's folder
TOLD, LAUNCHED, LOG, ENDED = "told.json", "launch.json", "launch.log", "ended.json"
PATIENCE = 300.0  # seconds from SIGTERM to SIGKILL: a step of a large network, a checkpoint, a validation

Launcher = Literal["plain", "ddp", "fsdp2", "zero2"]


def processes_of(run: Path) -> list[psutil.Process]:
    """All living processes of a run on this machine, whichever group they are in."""
    found, mark = [], str(run.absolute())
    for process in psutil.process_iter():
        # what ended meanwhile, or belongs to somebody else, is none of them
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def send(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    """Signal those that are still there."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            process.send_signal(number)
