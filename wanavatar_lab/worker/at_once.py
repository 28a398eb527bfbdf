"""A run that needs no model, executed at once in a process of its own, beside the queue.

    python -m wanavatar_lab.worker.at_once <run folder>

A tool that takes a second does not wait behind a generation that takes ten minutes, and one that takes minutes holds
up no client. The process has the client's environment and settings, and outlives it. It inherits the run's lock: where
it dies, the next look at the run finishes it as failed.
"""

import sys
from pathlib import Path

from wanavatar_lab.runs.run import Run
from wanavatar_lab.worker.child_process import start_detached
from wanavatar_lab.worker.execute import execute
from wanavatar_lab.worker.model_cache import ModelCache


def start_at_once(run: Run, lock: int) -> None:
    """Start the process of a run that is marked as running.

    Args:
        lock: of the run, which the process inherits; the caller closes its own handle.
    """
    with open(run.folder / "log.txt", "ab") as log:
        start_detached("wanavatar_lab.worker.at_once", str(run.folder), lock=lock, log=log)


if __name__ == "__main__":
    execute(Run(Path(sys.argv[1])), ModelCache("cpu"))
