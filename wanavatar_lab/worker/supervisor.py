"""The supervisor: a small process that owns the order of a runs folder, and starts, watches and replaces its worker.

    client ── submit ──▶ queue ──▶ supervisor ── run id ──▶ worker ──▶ stage
      ▲                              │ sees it die          │
      └────────── status.json ◀──────┴──────────────────────┘

It imports no torch and loads no model, so hardly anything can kill it; a worker that dies leaves a supervisor that says
so. It is started by the first `jobs.submit`, in a session of its own, outlives that client, and ends when there was
nothing to do for `worker_idle_seconds`. By hand, for a service that stays in the foreground:

    python -m wanavatar_lab.worker.supervisor --runs-dir runs

It is a child process of the one that is started, which only waits for it: when the supervisor is killed, its parent kills
what is left of the worker, ends the run that was being executed as failed, and forks a new supervisor if runs are queued.

The supervisor's side of its worker: start it, give it a run, hear when it is done or dead, end it.
"""

import argparse
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import IO, Literal

from wanavatar_lab.errors import LabError, RunError
from wanavatar_lab.runs.finish import finish_run
from wanavatar_lab.runs.run import Run, remove_stale_drafts, runs_folder
from wanavatar_lab.runs.status import LOADING, STARTING, State
from wanavatar_lab.settings import Settings, read_settings
from wanavatar_lab.worker.error_messages import how_it_ended, worker_died
from wanavatar_lab.worker.queue import ProcessIds, RunQueue

DONE, UNFIT, STOP = "done", "done unfit", "stop"  # what worker and supervisor say to each other beside the ids of runs

News = Literal["done", "unfit", "died"]

_LAST_WAIT = 5.0  # seconds that a worker without a run gets to leave


class WorkerProcess:
    """A worker with its process id, alive from the start until `end` or its death."""

    def __init__(self, runs_dir: Path) -> None:
        self._reports, report_to = os.pipe()
        command = [sys.executable, "-u", "-P", "-m", "wanavatar_lab.worker.process", "--runs-dir", str(runs_dir)]
        self._process = subprocess.Popen(
            [*command, "--report-to", str(report_to), "--supervisor", str(os.getpid())],
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


POLL = 0.05  # seconds between looks at the queue and at the cancel marker
MOST_STARTS = 3  # supervisors in a row that may die before they serve; one such death can be an accident
_LARGEST_LOG = 1024 * 1024  # bytes; the supervisor's log begins anew above that
_SIGNALLED = 128  # added to a signal's number where a process ends by itself because of it, as in shells
_TOLD_TO_END = (_SIGNALLED + signal.SIGTERM, -signal.SIGTERM, -signal.SIGINT)
_PR_SET_CHILD_SUBREAPER = 36  # from Linux's prctl.h

_log = logging.getLogger(__name__)


class Supervisor:
    """Takes the runs of one queue, in order, until there are none for a while."""

    def __init__(self, queue: RunQueue, lock: int, settings: Settings) -> None:
        self._queue = queue
        self._lock = lock
        self._settings = settings
        self._worker: WorkerProcess | None = None
        self._current: Run | None = None

    def serve(self) -> None:
        """Take runs; return when idle for long, or when the queue's folder is gone."""
        self._note(None)
        remove_stale_drafts(self._queue.root)
        idle_since = time.monotonic()
        serving = False
        while self._queue.is_ours(self._lock):
            run = self._take() if self._queue.run_ids() else None
            if not serving:
                self._queue.count_starts(0)
                serving = True
            if run is not None:
                self._see_through(run)
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since <= self._settings.worker_idle_seconds:
                time.sleep(POLL)
            else:
                # before the queue is free, so that the next supervisor's worker finds the GPU free too
                self._dismiss_worker()
                if self._leave():
                    return

    def close(self) -> None:
        """End the worker, and the run that it may be at."""
        run = self._current
        if run is not None and self._worker is not None:
            self._worker.kill()
            self._end(run, "failed", worker_died("its supervisor was told to end"))
        self._dismiss_worker()

    def _take(self) -> Run | None:
        """The next run, marked as running; ends on the way what was cancelled, or left behind by a dead supervisor."""
        with self._queue.locked():
            self._queue.bury()
            for run in self._queue.runs():
                try:
                    status = run.status()
                    if status.state == "running":
                        return None  # its worker is still dying; it is buried when it is dead
                    if not run.cancel_requested():
                        started = {
                            "state": "running",
                            "phase": STARTING,
                            "message": STARTING,
                            "started_at": time.time(),
                        }
                        run.write_status(status.model_copy(update=started))
                        return run
                    self._end(run, "cancelled")
                except (LabError, OSError) as error:
                    # damaged, or no room for its status
                    self._end(run, "failed", str(error))
                self._queue.remove(run.id)
        return None

    def _see_through(self, run: Run) -> None:
        """Give `run` to the worker and wait until it has ended, whatever comes."""
        self._current = run
        if self._worker is not None and not self._worker.is_alive():
            self._dismiss_worker()  # it was killed while it had nothing to do, which is no fault of this run
        worker = self._worker = self._worker or WorkerProcess(self._queue.root)
        self._note(run)
        worker.give(run.id)
        deadline: float | None = None
        while (news := worker.news(POLL)) is None:
            deadline = deadline or self._deadline(run)
            if run.cancel_requested(now=True) or (deadline is not None and time.monotonic() > deadline):
                worker.kill()
                self._end(run, "cancelled")
                break
        if news == "died":
            # before its first phase it has not yet turned its output to the run's log
            log = "log.txt" if self._phase(run) != STARTING else str(self._queue.log)
            self._end(run, "failed", worker_died(worker.how_it_died(), log))
        if news != "done":
            self._dismiss_worker()
        self._current = None
        with self._queue.locked():
            self._queue.remove(run.id)
        self._note(run if news == "done" else None)

    def _dismiss_worker(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None

    def _deadline(self, run: Run) -> float | None:
        """When a run that was asked to end is killed; None while it was not asked, or while models load."""
        if not run.cancel_requested() or self._phase(run) in (STARTING, LOADING):
            return None
        return time.monotonic() + self._settings.cancel_grace_seconds

    def _phase(self, run: Run) -> str:
        try:
            return run.status().phase
        except RunError:
            return ""  # its folder is being removed; ending it will say so

    def _end(self, run: Run, state: State, error: str | None = None) -> None:
        try:
            if run.status().ended:
                return  # its last word was written before its worker died
        except RunError as damage:
            _log.warning("%s", damage)
        try:
            finish_run(run, state, error=error)
        except Exception:  # noqa: BLE001  its folder was removed, say; the next run must not suffer for it
            _log.exception("%s could not be ended as %s", run.id, state)

    def _leave(self) -> bool:
        with self._queue.locked():
            if self._queue.run_ids():
                return False
            os.close(self._lock)
            return True

    def _note(self, warm: Run | None) -> None:
        worker = self._worker.pid if self._worker is not None else None
        self._queue.write_note(self._lock, ProcessIds(os.getpid(), worker, warm.stage if warm is not None else None))


def start_supervisor(queue: RunQueue, lock: int) -> None:
    """Start a supervisor that lives on without this process, and give it `lock`; the caller closes its own handle."""
    queue.count_starts(queue.starts() + 1)
    settings = read_settings()
    package = str(Path(__file__).resolve().parents[2])
    environment = {
        **os.environ,
        "WANAVATAR_RUNS_DIR": str(queue.root),
        "WANAVATAR_WEIGHTS_DIR": str(settings.weights_dir.absolute()),
        "PYTHONPATH": os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH")))),
    }
    mode = "wb" if queue.log.exists() and queue.log.stat().st_size > _LARGEST_LOG else "ab"
    with open(queue.log, mode) as log:
        process = subprocess.Popen(
            # -P: the client's folder may hold a file that is called like a module of ours
            [
                sys.executable,
                "-P",
                "-m",
                "wanavatar_lab.worker.supervisor",
                "--runs-dir",
                str(queue.root),
                "--lock",
                str(lock),
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(lock,),
            env=environment,
            start_new_session=True,
        )
    # a supervisor that ends before this process does would stay in the process table
    threading.Thread(target=process.wait, name="supervisor", daemon=True).start()


def guard(queue: RunQueue, lock: int) -> None:
    """Keep a supervisor running in a child process; return when it has left and no run waits, or when it was told to end.

    Args:
        lock: the supervisor's lock, which is held as long as this process or the supervisor has the handle.
    """
    _adopt_orphans()
    while True:
        if (supervisor := os.fork()) == 0:
            _keep(queue, lock)
            return
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the supervisor by itself
        signal.signal(signal.SIGTERM, lambda number, _: os.kill(supervisor, number))
        code = os.waitstatus_to_exitcode(_wait(queue, supervisor))
        # the next supervisor begins with the handlers that this one began with
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if code < 0:  # an exception has left its traceback
            _log.warning("The supervisor, process %d, ended: %s.", supervisor, how_it_ended(code))
        if code in _TOLD_TO_END or not queue.is_ours(lock):
            return
        with queue.locked():
            queue.bury()
            # a client that found the lock held until now has started no supervisor
            if not queue.run_ids() or queue.starts() >= MOST_STARTS:
                os.close(lock)
                return
            if code != 0:
                queue.count_starts(queue.starts() + 1)


def main(arguments: list[str] | None = None) -> None:
    """Keep one runs folder."""
    parser = argparse.ArgumentParser(description="Takes the runs of a folder in order and watches over the worker.")
    parser.add_argument("--runs-dir", type=Path)
    parser.add_argument("--lock", type=int, help="the handle of the lock, from the client that starts the supervisor")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    queue = RunQueue(runs_folder(options.runs_dir))
    lock = options.lock
    if lock is None:
        queue.prepare()
        with queue.locked():
            lock = queue.claim()
        if lock is None:
            sys.exit(f"A supervisor is at work in {queue.root} already: {queue.note()}.")
        lock = os.dup(lock)  # a forked process loses the handles that `locks` knows
    guard(queue, lock)


def _keep(queue: RunQueue, lock: int) -> None:
    signal.signal(signal.SIGTERM, _leave_orderly)
    supervisor = Supervisor(queue, lock, read_settings())
    try:
        supervisor.serve()
    finally:
        supervisor.close()


def _leave_orderly(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one would cut short what the first one began
    sys.exit(_SIGNALLED + number)


def _adopt_orphans() -> None:
    """Become the parent of processes whose own parent dies, where the system can (Linux).

    A worker that outlives its supervisor, even as a dead process nobody has waited for, then keeps its number, so that
    killing its group cannot hit another process that was given the same number.
    """
    if sys.platform == "linux":
        import ctypes  # takes a while to import

        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def _wait(queue: RunQueue, supervisor: int) -> int:
    """Wait for the supervisor and see that its worker is gone, with what the worker started; returns the wait status."""
    while True:
        # without taking the number away from a worker whose group is still to be killed
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        assert ended is not None  # only with WNOHANG
        if ended.si_pid == supervisor:
            _kill_orphaned(queue)
            return os.waitpid(supervisor, 0)[1]
        _kill_orphaned(queue)
        with suppress(ChildProcessError):  # it was the worker
            os.waitpid(ended.si_pid, 0)


def _kill_orphaned(queue: RunQueue) -> None:
    """Kill the worker of a dead supervisor and the processes that it started, and wait until the worker is gone."""
    note = queue.note()
    if note is None or note.worker is None:
        return
    try:
        os.waitid(os.P_PID, note.worker, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return  # it has a supervisor, or is long gone
    os.killpg(note.worker, signal.SIGKILL)
    os.waitpid(note.worker, 0)


if __name__ == "__main__":
    main()
