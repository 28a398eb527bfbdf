"""The worker process: loads models and executes runs, one after the other; models stay loaded between runs.

    python -m wanavatar_lab.worker.process <runs folder> <process id of the supervisor>

Started by the supervisor (`wanavatar_lab.worker.supervisor`), never by hand. Its standard input is a socket: it reads
from it the ids of the runs to execute, one a line, each with the number of GPUs that it may use (0: all that the worker
sees), and answers each with the line `done`. After a run that has made the GPU unusable for this process, or that has
lost one of the processes that shared it (`worker.rank_group`), it exits instead; the supervisor then starts another
worker. What a run prints, in Python or below, goes to the run's log.txt.
"""

import ctypes
import faulthandler
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wanavatar_lab.runs.run import Run
from wanavatar_lab.worker.child_process import die_with_parent, guard_group
from wanavatar_lab.worker.execute import choose_device, execute
from wanavatar_lab.worker.model_cache import ModelCache
from wanavatar_lab.worker.rank_group import RankGroup


def main(runs_dir: Path, supervisor: int) -> None:
    """Execute runs until killed, or until the process with the id `supervisor` is gone."""
    die_with_parent(supervisor)
    guard_group()
    faulthandler.enable()
    channel = socket.socket(fileno=os.dup(0))
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)  # a stage that asks for input gets none, and not the supervisor's lines
    orders: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_orders, args=(channel, orders), name="orders", daemon=True).start()
    cache: ModelCache | None = None
    group = RankGroup()
    while True:
        run_id, gpus = orders.get().split()
        run = Run(runs_dir / run_id)
        with run.held(), output_into(run.folder / "log.txt"):
            # chosen in the first run, because it may import torch, which takes seconds and may print
            cache = cache or ModelCache(choose_device())
            usable = execute(run, cache, group, int(gpus))
        if not usable:
            os._exit(0)  # without Python's clean-up, which may hang in a broken GPU context
        channel.sendall(b"done\n")


def _read_orders(channel: socket.socket, orders: "queue.SimpleQueue[str]") -> None:
    """Pass on what the supervisor sends; when it is gone, kill this process and those that it started."""
    try:
        for line in channel.makefile(encoding="utf-8"):
            orders.put(line)
    finally:  # also where the connection is reset, because the supervisor died before it read an answer
        os.killpg(0, signal.SIGKILL)


@contextmanager
def output_into(path: Path) -> Iterator[None]:
    """Send what this process and libraries below Python print to the end of `path`."""
    before = {handle: os.dup(handle) for handle in (1, 2)}
    try:
        with open(path, "ab") as log:
            for handle in before:
                os.dup2(log.fileno(), handle)
        yield
    finally:
        # what the C library still buffers belongs to this run; Python's own streams buffer nothing (-u)
        ctypes.CDLL(None).fflush(None)
        for handle, saved in before.items():
            os.dup2(saved, handle)
            os.close(saved)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
