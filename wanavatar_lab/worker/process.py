"""The worker process: loads models and executes runs, one after the other; models stay loaded between runs.

    python -m wanavatar_lab.worker.process --runs-dir <folder> --report-to <handle> --supervisor <process id>

Started by the supervisor (`wanavatar_lab.worker.supervisor`), never by hand. It reads from its standard input the ids
of the runs to execute, one a line, and answers each with the line `done` on the handle. After a run that has made the
GPU unusable for this process it exits instead; the supervisor then starts another worker. What a run prints, in Python
or below, goes to the run's log.txt.
"""

import argparse
import ctypes
import faulthandler
import os
import queue
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wanavatar_lab.runs.run import Run
from wanavatar_lab.settings import read_settings
from wanavatar_lab.worker.child_process import die_with_parent
from wanavatar_lab.worker.execute import choose_device, execute
from wanavatar_lab.worker.model_cache import ModelCache


def main(arguments: list[str] | None = None) -> None:
    """Execute runs until killed, or until the supervisor is gone."""
    parser = argparse.ArgumentParser(description="Executes runs for the supervisor, which starts it.")
    parser.add_argument("--runs-dir", type=Path, required=True)
    parser.add_argument("--report-to", type=int, required=True)
    parser.add_argument("--supervisor", type=int, required=True)
    options = parser.parse_args(arguments)
    die_with_parent(options.supervisor)
    faulthandler.enable()
    run_ids = _read_run_ids()
    cache: ModelCache | None = None
    while True:
        run = Run(options.runs_dir / run_ids.get())
        with run.held(), _output_into(run.folder / "log.txt"):
            # chosen in the first run, because it may import torch, which takes seconds and may print
            cache = cache or ModelCache(choose_device(read_settings().device))
            usable = execute(run, cache)
        if not usable:
            os._exit(0)  # without Python's clean-up, which may hang in a broken GPU context
        os.write(options.report_to, b"done\n")


def _read_run_ids() -> "queue.SimpleQueue[str]":
    """What the supervisor writes, line by line; when it is gone, this process and those that it started are killed."""
    source = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # a stage that asks for input gets none, and not the supervisor's lines
    os.close(nothing)
    run_ids: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in source:
            run_ids.put(line.strip())
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=read, name="run ids", daemon=True).start()
    return run_ids


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
        # what the C library still buffers belongs to this run; Python's own streams buffer nothing (-u)
        ctypes.CDLL(None).fflush(None)
        for saved, handle in zip(before, (1, 2), strict=True):
            os.dup2(saved, handle)
        for handle in (*before, log):
            os.close(handle)


if __name__ == "__main__":
    main()
