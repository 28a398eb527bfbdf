"""The supervisor: owns the queue of one runs folder; starts, watches and replaces its worker.

    client ── submit ──▶ queue ──▶ supervisor ── run id ──▶ worker ──▶ stage
      ▲                                │ sees it die          │
      └─────────── status.json ◀───────┴──────────────────────┘

It imports no torch and loads no model, so hardly anything can kill it, and when a worker dies it is there to report it.
The first `jobs.submit` starts it in a session of its own: it outlives that client, and exits after
`worker_idle_seconds` without a run, also where runs wait in a queue that is paused. In the foreground, for a service:

    python -m wanavatar_lab.worker.supervisor --runs-dir runs

The process that is started forks the supervisor and then only waits for it (`monitor`): when the supervisor is killed,
it kills what is left of the worker, finishes the run that was being executed as failed, and forks a new supervisor if
runs are queued.
"""

import argparse
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Literal

from wanavatar_lab.errors import TERMINATED, LabError
from wanavatar_lab.runs.finish import finish_run
from wanavatar_lab.runs.run import Run, remove_stale_drafts, runs_folder
from wanavatar_lab.runs.status import LOADING, STARTING, State
from wanavatar_lab.settings import read_settings
from wanavatar_lab.worker.child_process import adopt_orphans, has_exited, how_it_ended, start_detached
from wanavatar_lab.worker.error_messages import worker_died
from wanavatar_lab.worker.queue import ProcessIds, RunQueue

POLL = 0.05  # seconds between looks at the queue and for a cancellation; little beside a denoising step
MOST_STARTS = 3  # supervisors in a row that may die before they take a run; one such death can be an accident
_LARGEST_LOG = 1024 * 1024  # bytes; a larger worker.log is emptied when a supervisor starts

_log = logging.getLogger(__name__)


def start_supervisor(queue: RunQueue, lock: int) -> None:
    """Start a supervisor that outlives this process, and hand it `lock`; the caller closes its own handle."""
    queue.count_starts(queue.starts() + 1)
    mode = "wb" if queue.log.exists() and queue.log.stat().st_size > _LARGEST_LOG else "ab"
    with open(queue.log, mode) as log:
        start_detached(
            "wanavatar_lab.worker.supervisor", "--runs-dir", str(queue.root), "--lock", str(lock), lock=lock, log=log
        )


def main(arguments: list[str] | None = None) -> None:
    """Supervise one runs folder."""
    parser = argparse.ArgumentParser(description="Takes the runs of a folder in order and supervises the worker.")
    parser.add_argument("--runs-dir", type=Path)
    parser.add_argument("--lock", type=int, help="the handle of the lock, from the client that starts the supervisor")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    queue = RunQueue(runs_folder(options.runs_dir))
    if (lock := options.lock) is None:
        queue.prepare()
        with queue.locked():
            lock = queue.claim()
        if lock is None:
            sys.exit(f"{queue.root} has a supervisor already: {queue.process_ids()}.")
        lock = os.dup(lock)  # a forked process loses the handles that `locks` knows
    monitor(queue, lock)


def monitor(queue: RunQueue, lock: int) -> None:
    """Run a supervisor in a child process, and another one when it is killed while runs are queued.

    Returns when the supervisor has exited by itself or by SIGTERM, which is passed on to it.

    Args:
        lock: the supervisor's lock, which is held as long as this process or the supervisor has the handle.
    """
    adopt_orphans()
    while True:
        if (child := os.fork()) == 0:
            signal.signal(signal.SIGTERM, _exit_once)
            Supervisor(queue, lock).serve()
            return
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the supervisor by itself
        signal.signal(signal.SIGTERM, lambda number, _: os.kill(child, number))
        code = _wait_for_supervisor(queue, child)
        # the next supervisor begins with the handlers that this process began with
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if code < 0:  # an exception has left its traceback
            _log.warning("The supervisor, process %d, ended: %s.", child, how_it_ended(code))
        if code in (TERMINATED, -signal.SIGTERM, -signal.SIGINT) or not queue.is_claimed_by(lock):
            return
        with queue.locked():
            queue.finish_abandoned()
            # a client that found the lock held until now has started no supervisor
            if not queue.takeable() or queue.starts() >= MOST_STARTS:
                os.close(lock)
                return
            if code != 0:
                queue.count_starts(queue.starts() + 1)


def _exit_once(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second signal would cut short what the first one began
    sys.exit(TERMINATED)


def _wait_for_supervisor(queue: RunQueue, child: int) -> int:
    """Wait for the supervisor, and see that its worker is gone with all that it started; returns the exit code."""
    while True:
        # without waiting for a dead worker yet, whose id could then be another process's when its group is killed
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        assert ended is not None  # only with WNOHANG
        ids = queue.process_ids()
        if ids is not None and ids.worker is not None:
            with suppress(ChildProcessError):  # it has a supervisor, or is long gone
                has_exited(ids.worker)
                os.killpg(ids.worker, signal.SIGKILL)
                os.waitpid(ids.worker, 0)
        if ended.si_pid == child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with suppress(ChildProcessError):  # it was the worker
            os.waitpid(ended.si_pid, 0)


class Supervisor:
    """Gives the runs of one queue to a worker, in order, until there are none for `worker_idle_seconds`."""

    def __init__(self, queue: RunQueue, lock: int) -> None:
        self._queue = queue
        self._lock = lock
        self._settings = read_settings()  # then those of the run that was taken last
        self._worker: Worker | None = None
        self._run: Run | None = None  # that the worker executes

    def serve(self) -> None:
        """Take runs; return when idle for long, or when the queue's folder is gone.

        However it ends, the worker is killed, and a run that it executes is finished as failed.
        """
        try:
            self._take_runs()
        finally:
            self._stop_worker()
            if self._run is not None:
                self._finish(self._run, "failed", worker_died("its supervisor was stopped"))

    def _take_runs(self) -> None:
        self._queue.write_process_ids(self._lock, ProcessIds(os.getpid()))
        remove_stale_drafts(self._queue.root)
        idle_since = time.monotonic()
        while self._queue.is_claimed_by(self._lock):
            run = self._take() if self._queue.takeable() else None
            if self._queue.starts():  # this supervisor has come so far that starting them works
                self._queue.count_starts(0)
            if run is not None:
                self._execute(run)
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since <= self._settings.worker_idle_seconds:
                time.sleep(POLL)
            else:
                # before the lock is free, so that the next supervisor's worker finds the GPU free too
                self._stop_worker()
                with self._queue.locked():
                    if not self._queue.takeable():  # a client that continues a paused queue starts another one
                        os.close(self._lock)
                        return

    def _take(self) -> Run | None:
        """Mark the next run as running and return it; finish on the way those that are cancelled or damaged."""
        with self._queue.locked():
            self._queue.finish_abandoned()
            for run in [] if self._queue.is_paused() else self._queue.runs():
                try:
                    status = run.status()
                    if status.state == "running":
                        return None  # its worker is still dying, and it is abandoned once that is dead
                    if not run.cancel_requested():
                        self._settings = run.settings()
                        run.write_status(status.started())
                        return run
                    self._finish(run, "cancelled")
                except (LabError, OSError) as error:  # damaged, or no room for its status
                    self._finish(run, "failed", str(error))
                self._queue.remove(run.id)
        return None

    def _execute(self, run: Run) -> None:
        """Have the worker execute `run`; returns when the run has ended, in whatever way."""
        self._run = run
        settings = self._settings.for_worker()
        if self._worker is not None and (self._worker.settings != settings or not self._worker.is_alive()):
            self._stop_worker()  # a worker that was killed while idle is no fault of this run
        if self._worker is None:
            self._worker = Worker(self._queue.root, settings)
            self._queue.write_process_ids(self._lock, ProcessIds(os.getpid(), self._worker.pid))
        self._worker.give(run.id)
        deadline: float | None = None
        while (news := self._worker.news(POLL)) is None:
            # a cancelled stage gets time to stop, but models that load cannot be interrupted
            if deadline is None and run.cancel_requested() and self._phase(run) not in (STARTING, LOADING):
                deadline = time.monotonic() + self._settings.cancel_grace_seconds
            if run.cancel_requested(now=True) or (deadline is not None and time.monotonic() > deadline):
                self._worker.kill()
                self._finish(run, "cancelled")
                break
        if news == "died":
            # before its first phase it has not redirected its output to the run's log yet
            log = str(self._queue.log) if self._phase(run) == STARTING else "log.txt"
            self._finish(run, "failed", worker_died(how_it_ended(self._worker.kill()), log))
        if news != "done":
            self._stop_worker()
        self._run = None
        with self._queue.locked():
            self._queue.remove(run.id)

    def _stop_worker(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None
            self._queue.write_process_ids(self._lock, ProcessIds(os.getpid()))

    def _phase(self, run: Run) -> str:
        status = run.readable_status()
        return "" if status is None else status.phase  # where its folder is removed, finishing it will report that

    def _finish(self, run: Run, state: State, error: str | None = None) -> None:
        status = run.readable_status()
        if status is not None and status.ended:
            return  # the worker wrote its last status before it died
        try:
            finish_run(run, state, error=error)
        except Exception:  # noqa: BLE001  its folder was removed, say; the next run must not suffer for it
            _log.exception("%s could not be finished as %s", run.id, state)


class Worker:
    """A worker process as its supervisor sees it, from its start until it is killed.

    Attributes:
        settings: the environment variables that it was given.
        pid: its process id, which is also that of its process group.
    """

    def __init__(self, runs_dir: Path, settings: dict[str, str]) -> None:
        self.settings = settings
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-P", "-m", "wanavatar_lab.worker.process", str(runs_dir), str(os.getpid())],
                stdin=theirs.fileno(),
                env={**os.environ, **settings, "WANAVATAR_RUNS_DIR": str(runs_dir)},
                start_new_session=True,  # a process group of its own, so that what a stage starts is killed with it
            )
        self.pid = self._process.pid

    def give(self, run_id: str) -> None:
        """Have it execute a run. If it is dead, `news` will say so."""
        with suppress(ConnectionError):
            self._channel.sendall(f"{run_id}\n".encode())

    def news(self, seconds: float) -> Literal["done", "died"] | None:
        """Wait at most `seconds` for the end of the run that it was given, or its own."""
        ready, _, _ = select.select([self._channel], [], [], seconds)
        with suppress(ConnectionError):  # it died before it read the run's id
            if ready and self._channel.recv(1024):
                return "done"
        # a process forked by a stage may keep the socket open, so the worker's death does not always close it
        return "died" if ready or not self.is_alive() else None

    def is_alive(self) -> bool:
        """Whether it can take a run."""
        return self._process.returncode is None and not has_exited(self.pid)

    def kill(self) -> int:
        """Kill it and all that it started, now; returns its return code, an earlier one if it was dead already."""
        if self._process.returncode is None:
            # not after it was waited for, when its id may belong to another process
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
            self._channel.close()
        return self._process.returncode


if __name__ == "__main__":
    main()
