"""The worker: loads models and runs stages, one run after the other, with stages kept warm.

    python -m wanavatar_lab.worker.process --runs-dir <folder> --report-to <handle> --supervisor <process id>

Started by the supervisor (`wanavatar_lab.worker.supervisor`), never by hand. It reads from its standard input the ids of
the runs to execute, one a line, or `stop`; and answers each on the handle with `done`, or with `done unfit` where it
should be replaced. What a run prints, in Python or below, goes to the run's log.txt.
"""

import argparse
import ctypes
import faulthandler
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wanavatar_lab.runs.run import Run
from wanavatar_lab.settings import read_settings
from wanavatar_lab.worker.execute import choose_device, execute
from wanavatar_lab.worker.model_cache import ModelCache
from wanavatar_lab.worker.supervisor import DONE, STOP, UNFIT

_PR_SET_PDEATHSIG = 1  # from Linux's prctl.h


def main(arguments: list[str] | None = None) -> None:
    """Take runs until told to stop, or until the supervisor is gone."""
    parser = argparse.ArgumentParser(description="Executes runs for the supervisor, which starts it.")
    parser.add_argument("--runs-dir", type=Path, required=True)
    parser.add_argument("--report-to", type=int, required=True)
    parser.add_argument("--supervisor", type=int, required=True)
    options = parser.parse_args(arguments)
    die_with_parent(options.supervisor)
    faulthandler.enable()
    orders = _orders()
    cache: ModelCache | None = None
    while (order := orders.get()) != STOP:
        run = Run(options.runs_dir / order)
        with run.held(), _output_into(run.folder / "log.txt"):
            # chosen in the first run, because it may import torch, which takes seconds and may print
            cache = cache or ModelCache(choose_device(read_settings().device))
            fit = execute(run, cache)
        os.write(options.report_to, f"{DONE if fit else UNFIT}\n".encode())


def die_with_parent(parent: int) -> None:
    """Let the system kill this process when its parent dies, where it can (Linux).

    Args:
        parent: its process id; if it is gone already, this process ends now.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(f"The parent, process {parent}, is gone.")


def _orders() -> "queue.SimpleQueue[str]":
    """What the supervisor writes, line by line; when it is gone, this process and those that it started are killed."""
    source = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # a stage that asks for input gets none, and not the supervisor's orders
    os.close(nothing)
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in source:
            orders.put(line.strip())
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=read, name="orders", daemon=True).start()
    return orders


@contextmanager
def _output_into(path: Path) -> Iterator[None]:
    """Send what this process and libraries below Python print to the end of `path`."""
    before = [os.dup(1), os.dup(2)]
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        for handle in (1, 2):
            os.dup2(log, handle)
        yield
    finally:
        # what the C library still holds back belongs to this run; Python's own streams hold nothing back (-u)
        ctypes.CDLL(None).fflush(None)
        for saved, handle in zip(before, (1, 2), strict=True):
            os.dup2(saved, handle)
        for handle in (*before, log):
            os.close(handle)


if __name__ == "__main__":
    main()
