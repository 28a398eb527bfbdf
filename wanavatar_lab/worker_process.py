"""The keeper's side of its worker: start it, give it a run, hear when it is done or dead, end it."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Literal

from wanavatar_lab.failures import how_it_ended

DONE, UNFIT, STOP = "done", "done unfit", "stop"  # what worker and keeper say to each other beside the ids of runs

News = Literal["done", "unfit", "died"]

_LAST_WAIT = 5.0  # seconds that a worker without a run gets to leave


class WorkerProcess:
    """A worker with its process id, alive from the start until `end` or its death."""

    def __init__(self, runs_dir: Path) -> None:
        self._reports, report_to = os.pipe()
        command = [sys.executable, "-u", "-P", "-m", "wanavatar_lab.worker", "--runs-dir", str(runs_dir)]
        self._process = subprocess.Popen(
            [*command, "--report-to", str(report_to), "--keeper", str(os.getpid())],
            stdin=subprocess.PIPE,
            bufsize=0,  # nothing held back that closing the pipe of a dead worker would try to write again
            pass_fds=(report_to,),
            start_new_session=True,  # a group of its own, so that what a stage starts is killed with it
        )
        os.close(report_to)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def give(self, order: str) -> None:
        """Hand it a run's id, or the word to stop. If it is dead, `news` will say so."""
        try:
            self._orders.write(f"{order}\n".encode())
        except BrokenPipeError:
            return

    def news(self, seconds: float) -> News | None:
        """Wait at most `seconds` for what it has to say about the run that it was given."""
        ready, _, _ = select.select([self._reports], [], [], seconds)
        words = os.read(self._reports, 1024).decode().split("\n") if ready else []
        if DONE in words:
            return "done"
        if UNFIT in words:
            return "unfit"
        # a process forked by a stage may hold the pipe open, so its end is not waited for alone
        return "died" if words or not self.is_alive() else None

    def is_alive(self) -> bool:
        """Whether it can take a run."""
        if self._process.returncode is not None:
            return False
        # without taking the return code, which frees its number for another process
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def how_it_died(self) -> str:
        """The reason, once `news` was `died`; what it had started is killed."""
        return how_it_ended(self.kill())

    def kill(self) -> int:
        """Kill it and what it started, now.

        Returns:
            Its return code, which is an earlier one if it was dead already.
        """
        if self._process.returncode is None:
            # not after it was waited for, when its number may belong to another process
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
            self._orders.close()
            os.close(self._reports)
        return self._process.returncode

    def end(self) -> None:
        """Let it leave by itself if it lives; kill it if it does not."""
        deadline = time.monotonic() + _LAST_WAIT
        if self.is_alive():
            self.give(STOP)
        while self.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)
        self.kill()

    @property
    def _orders(self) -> IO[bytes]:
        assert self._process.stdin is not None  # it was started with a pipe
        return self._process.stdin
