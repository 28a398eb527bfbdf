"""The supervisor: owns the queue of one runs folder; starts, watches and replaces its workers.

    client ── submit ──▶ queue ──▶ supervisor ── run id ──▶ worker ──▶ stage      one worker, or one per GPU
      ▲                                │ sees it die          │
      └─────────── status.json ◀───────┴──────────────────────┘

It imports no torch and loads no model, so hardly anything can kill it, and when a worker dies it is there to report it.
The first `jobs.submit` starts it in a session of its own: it outlives that client, and exits after
`worker_idle_seconds` without a run, also where runs wait in a queue that is paused. In the foreground, for a service:

    python -m wanavatar_lab.worker.supervisor --runs-dir runs

The process that is started forks the supervisor and then only waits for it (`monitor`): when the supervisor is killed,
it kills what is left of the workers, finishes the runs that were being executed as failed, and forks a new supervisor
if runs are queued.
"""

import argparse
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from wanavatar_lab import locks
from wanavatar_lab.errors import TERMINATED, LabError
from wanavatar_lab.files import stat_if_possible
from wanavatar_lab.profiles import PROFILES, Profile
from wanavatar_lab.runs.finish import finish_run
from wanavatar_lab.runs.run import Run, is_there, remove_stale_drafts, runs_folder
from wanavatar_lab.runs.status import LOADING, STARTING, State
from wanavatar_lab.settings import Settings, read_settings
from wanavatar_lab.worker.child_process import adopt_orphans, has_exited, how_it_ended, start_detached
from wanavatar_lab.worker.engine import Engine, Place, engine_of
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
    words = ("--runs-dir", str(queue.root), "--lock", str(lock))
    with open(queue.log, mode) as log:
        # the client's folder may be removed while workers are still to be started, and no process loads torch there
        start_detached("wanavatar_lab.worker.supervisor", *words, lock=lock, log=log, folder=queue.root)


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
            claimed = queue.claim()
        if claimed is None:
            sys.exit(f"{queue.root} has a supervisor already: {queue.process_ids()}.")
        lock = os.dup(claimed)  # a forked process loses the handles that `locks` knows
        locks.drop(claimed)  # else the lock would outlast the copy that `monitor` closes
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
        for worker in () if ids is None else ids.workers:
            with suppress(ChildProcessError):  # it has a supervisor, or is long gone
                has_exited(worker)
                os.killpg(worker, signal.SIGKILL)
                os.waitpid(worker, 0)
        if ended.si_pid == child:
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with suppress(ChildProcessError):  # it was the worker
            os.waitpid(ended.si_pid, 0)


class Supervisor:
    """Gives the runs of one queue to workers, in order, until there are none for `worker_idle_seconds`."""

    def __init__(self, queue: RunQueue, lock: int) -> None:
        self._queue = queue
        self._lock = lock
        self._engines: dict[str, Engine] = {}  # by their name in the settings
        self._settings = read_settings()  # then those of the run that was taken last
        self._places: list[Place] = []
        self._gave_up = False  # to wait for the folder of all runs
        self._read: tuple[tuple[object, ...], tuple[Settings, Profile]] | None = None  # of the run that waits first

    def serve(self) -> None:
        """Take runs; return when idle for long, or when the queue's folder is gone.

        Where the folder of all runs is gone, its disk may come back: that is waited for as long as for a run.

        However it ends, the workers are killed, and runs that they execute are finished as failed.
        """
        try:
            self._take_runs()
        finally:
            executed = [place.run for place in self._busy()]
            self._stop(self._places)
            self._close_engines()
            for run in filter(None, executed):
                self._finish(run, "failed", worker_died("its supervisor was stopped"))

    def _busy(self) -> list[Place]:
        return [place for place in self._places if place.run is not None]

    def _take_runs(self) -> None:
        self._write_process_ids()
        remove_stale_drafts(self._queue.root)
        idle_since = time.monotonic()
        while (claimed := self._queue.is_claimed_by(self._lock) or self._came_back()) or self._busy():
            taken = self._take() if claimed else None  # what has started is done also where the folder was removed
            if claimed and self._queue.starts():  # this supervisor has come so far that starting them works
                self._queue.count_starts(0)
            if taken is not None:
                self._begin(*taken)
            elif busy := self._busy():
                for place in busy:
                    self._look_at(place, POLL / len(busy))
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since <= self._settings.worker_idle_seconds:
                time.sleep(POLL)
            else:
                # before the lock is free, so that the next supervisor's workers find the GPUs free too
                self._stop(self._places)
                self._close_engines()
                with self._queue.locked():
                    if not self._queue.takeable():  # a client that continues a paused queue starts another one
                        os.close(self._lock)
                        return

    def _came_back(self) -> bool:
        """Wait while the folder of all runs is away, once and not for ever; whether it has come back with the queue."""
        root, deadline = self._queue.root, time.monotonic() + self._settings.worker_idle_seconds
        if not self._gave_up and not is_there(root):
            _log.warning("%s cannot be read now. The queue waits for its disk.", root)
            while not is_there(root) and not self._gave_up:
                time.sleep(POLL)
                self._gave_up = time.monotonic() > deadline
            _log.warning("%s is %s.", root, "given up" if self._gave_up else "there again")
        return self._queue.is_claimed_by(self._lock)

    def _take(self) -> tuple[Run, Place, tuple[str, ...]] | None:
        """Mark the next run as running and return it with its place and its GPUs, if there is a place for it.

        Those that are cancelled or damaged are finished on the way.
        """
        executed = {place.run.id for place in self._busy() if place.run is not None}
        waiting = [run_id for run_id in self._queue.takeable() if run_id not in executed]
        if not waiting:
            return None
        if executed and self._place(Run(self._queue.root / waiting[0]), len(waiting)) is None:
            return None  # the usual answer, found without the lock
        with self._queue.locked():
            self._queue.finish_abandoned(besides=executed)
            waited = [run for run in self._queue.runs() if run.id not in executed]
            for index, run in enumerate([] if self._queue.is_paused() else waited):
                try:
                    status = run.status()
                    if status.state == "running":
                        return None  # its worker is still dying, and it is abandoned once that is dead
                    if not run.cancel_requested():
                        settings, chosen = run.settings(), self._place(run, len(waited) - index)
                        if chosen is None:
                            return None
                        run.write_status(status.started())
                        self._settings = settings
                        return run, *chosen
                    self._finish(run, "cancelled")
                except (LabError, OSError) as error:  # damaged, or no room for its status
                    self._finish(run, "failed", str(error))
                self._queue.remove(run.id)
        return None

    def _place(self, run: Run, waiting: int) -> tuple[Place, tuple[str, ...]] | None:
        """The place and the GPUs of the first of so many runs that wait, if there is a place for it."""
        try:
            settings, profile = self._wants(run)
        except LabError:
            settings, profile = self._settings, PROFILES["full"]  # damaged, which executing it will report
        places = [place for place in self._places if place.engine == settings.engine]
        return self._engine(settings.engine).choose(settings, profile, places, others=waiting > 1)

    def _wants(self, run: Run) -> tuple[Settings, Profile]:
        """The settings and the profile of a run, which are read again only if it or its files are others than before.

        While it waits for a place, it is looked at for one at every poll: the room of a cluster may grow.
        """
        found = [stat_if_possible(run.folder / name) for name in (".settings.json", "request.json")]
        seen = (run.id, *(each and (each.st_ino, each.st_mtime_ns, each.st_size) for each in found))
        if self._read is None or self._read[0] != seen:
            profile = PROFILES.get(str(run.read_json("request.json").get("profile")), PROFILES["full"])
            self._read = seen, (run.settings(), profile)
        return self._read[1]

    def _engine(self, name: str) -> Engine:
        if name not in self._engines:
            self._engines[name] = engine_of(name, self._queue.root)
        return self._engines[name]

    def _close_engines(self) -> None:
        while self._engines:
            self._engines.popitem()[1].close()

    def _begin(self, run: Run, place: Place, gpus: tuple[str, ...]) -> None:
        """Have a run executed at its place, by so many GPUs."""
        if place.worker is not None and not place.worker.is_alive():
            self._stop([place])  # one that was killed while idle is no fault of this run
        place.run, place.uses, place.deadline = run, gpus, None
        place.grace = self._settings.cancel_grace_seconds  # those of this run, which was taken last
        # memory that idle workers with other settings, or on these GPUs, hold is needed here
        idle = [other for other in self._places if other.run is None and other.engine == place.engine]
        self._stop([each for each in idle if each.settings != place.settings or not set(gpus).isdisjoint(each.uses)])
        if place.worker is None:
            place.worker = self._engine(place.engine).start(place, self._queue.root)
            self._places.append(place)
            self._write_process_ids()
        place.worker.give(run.id, len(gpus))

    def _look_at(self, place: Place, seconds: float) -> None:
        """Wait at most so long for the end of the run that is executed at a place, and end it where it is cancelled."""
        run, worker = place.run, place.worker
        assert run is not None and worker is not None
        if (news := worker.news(seconds)) is None:
            # a cancelled stage gets time to stop, but models that load cannot be interrupted
            if place.deadline is None and run.cancel_requested() and self._phase(run) not in (STARTING, LOADING):
                place.deadline = time.monotonic() + place.grace
            if not run.cancel_requested(now=True) and (place.deadline is None or time.monotonic() <= place.deadline):
                return
            worker.kill()
            self._finish(run, "cancelled")
        elif news == "died":
            # what it printed before it had the run is in the queue's log
            printed = stat_if_possible(run.folder / "log.txt")
            unread = self._phase(run) == STARTING and (printed is None or not printed.st_size)
            log = str(self._queue.log) if unread else "log.txt"
            self._finish(run, "failed", worker_died(how_it_ended(worker.kill()), log))
        place.run = None
        if news != "done":
            self._stop([place])
        # where the queue's folder was removed, so was the ticket; runs at other places go on
        with suppress(FileNotFoundError), self._queue.locked():
            self._queue.remove(run.id)

    def _stop(self, places: Sequence[Place]) -> None:
        """Kill the workers of places, which are given up."""
        for place in [*places]:
            if place.worker is not None:
                place.worker.kill()
                place.worker = None
                self._places.remove(place)
                self._write_process_ids()

    def _write_process_ids(self) -> None:
        # places of a cluster have one process in common
        workers = dict.fromkeys(place.worker.pid for place in self._places if place.worker is not None)
        self._queue.write_process_ids(self._lock, ProcessIds(os.getpid(), tuple(workers)))

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


if __name__ == "__main__":
    main()
