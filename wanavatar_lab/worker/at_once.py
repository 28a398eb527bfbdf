"""A run that needs no model, executed at once in a process of its own, beside the queue.

    python -m wanavatar_lab.worker.at_once <run folder>

A tool that takes a second does not wait behind a generation that takes ten minutes, and one that takes minutes holds
up no client. The process has the client's environment and settings, and outlives it. It inherits the run's lock: where
it dies, the next look at the run finishes it as failed. No more of them work at the same time than there are cores;
others wait for one to end.
"""

import os
import sys
import time
from pathlib import Path

from wanavatar_lab import locks
from wanavatar_lab.runs.run import Run
from wanavatar_lab.worker.child_process import start_detached

POLL = 0.1  # seconds between looks for a free place; as short as nobody notices


def start_at_once(run: Run, lock: int) -> None:
    """Start the process of a run that is marked as running.

    Args:
        lock: of the run, which the process inherits; the caller closes its own handle.
    """
    with open(run.folder / "log.txt", "ab") as log:
        start_detached("wanavatar_lab.worker.at_once", str(run.folder), lock=lock, log=log)


def places(root: Path) -> list[Path]:
    """The files of a runs folder of which each working process holds one: as many as there are cores, at least two."""
    return [root / ".worker" / f"at_once.{number}" for number in range(max(2, os.cpu_count() or 1))]


def wait_for_place(run: Run) -> None:
    """Take a place, until this process ends; a run that is cancelled waits no longer."""
    files = places(run.folder.parent)
    files[0].parent.mkdir(exist_ok=True)
    while not run.cancel_requested() and all(locks.take(file, wait=False) is None for file in files):
        time.sleep(POLL)


def main(folder: Path) -> None:
    """Execute the run of a folder."""
    run = Run(folder)
    wait_for_place(run)
    # not at the top: clients that only submit need none of it
    from wanavatar_lab.worker.execute import execute
    from wanavatar_lab.worker.model_cache import ModelCache

    execute(run, ModelCache("cpu"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
