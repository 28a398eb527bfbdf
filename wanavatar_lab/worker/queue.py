"""The queue of a runs folder: the order of its runs, and the lock of the one supervisor that takes them.

    <runs_dir>/.worker/queue/000000000007.<run id>    a ticket: a run that has not ended; lower numbers go first
                       queue.lock                     held for milliseconds to read or change the order
                       paused                         exists while no run may start
                       lock                           held by the supervisor while it lives; contains its process id
                       starts                         how many supervisors in a row died before they took a run
                       worker.log                     what supervisor and worker print between runs

Clients of several machines may share a runs folder on a disk whose locks work between them.
"""

import difflib
import json
import logging
import os
import re
from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

from wanavatar_lab import locks
from wanavatar_lab.errors import RunError
from wanavatar_lab.files import entries, read_file, remove, report_write_errors
from wanavatar_lab.runs.finish import finish_run
from wanavatar_lab.runs.run import Run, list_runs
from wanavatar_lab.worker.error_messages import worker_died

_LOCK_BYTES = 2048  # of the lock's contents: the ids of 200 processes as JSON, within one block
_LONGEST_LINE = 1000  # bytes of the log; the error that quotes its last line has to fit into a status
_TICKET = re.compile(r"(\d{12})\.(.+)")
PLACES = ("first", "up", "down", "last")  # where a waiting run can be moved, besides before another one

_log = logging.getLogger(__name__)


class ProcessIds(NamedTuple):
    """The processes of a queue, on the supervisor's machine."""

    supervisor: int
    workers: tuple[int, ...] = ()


class RunQueue:
    """The queue of one runs folder. Methods marked "locked" are to be called within `locked()`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".worker"
        self.log = self.folder / "worker.log"
        self._lock, self._queue_lock, self._starts = (self.folder / name for name in ("lock", "queue.lock", "starts"))
        self._paused = self.folder / "paused"

    def prepare(self) -> None:
        """Make the queue's files, with all the blocks that the supervisor will need.

        Raises:
            DiskFull: there is no room.
            LabError: the runs folder is not writable.
        """
        with report_write_errors(self.folder / "queue"):
            (self.folder / "queue").mkdir(parents=True, exist_ok=True)
            self.log.touch()
            if not self._starts.exists():
                self.count_starts(0)
            with open(self._lock, "ab") as file:
                if file.tell() < _LOCK_BYTES:
                    file.write(b" " * _LOCK_BYTES)

    def is_writable(self) -> bool:
        """Whether runs can be queued and finished: not on a read-only disk, or in another user's folder."""
        files = (path for path in (self._lock, self._queue_lock) if path.exists())
        return all(os.access(path, os.W_OK) for path in (self.folder, *files))

    def locked(self) -> AbstractContextManager[None]:
        """Hold the order of the queue still; waits for others, who hold it for milliseconds.

        Raises:
            FileNotFoundError: the queue was never prepared, or its folder is gone.
        """
        return locks.locked(self._queue_lock)

    def claim(self) -> int | None:
        """Locked. Take the supervisor's lock: a handle for `locks.drop`, or None if a supervisor lives."""
        return locks.take(self._lock, wait=False)

    def is_claimed_by(self, handle: int) -> bool:
        """Whether `handle` still is the lock that others would try: not if the queue's folder is gone or away."""
        try:
            return os.path.samestat(os.fstat(handle), os.stat(self._lock))
        except OSError:
            return False

    def write_process_ids(self, handle: int, ids: ProcessIds) -> None:
        """Write into the claimed lock who holds it; into existing blocks, so that a full disk does not matter."""
        os.pwrite(handle, json.dumps(ids._asdict()).encode().ljust(_LOCK_BYTES), 0)

    def process_ids(self) -> ProcessIds | None:
        """What the last supervisor has written; its processes may be gone."""
        try:
            ids = json.loads(self._lock.read_bytes())
            return ProcessIds(int(ids["supervisor"]), tuple(map(int, ids["workers"])))
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def starts(self) -> int:
        """How many supervisors were started since one last took a run."""
        try:
            return int(self._starts.read_bytes())
        except (OSError, ValueError):
            return 0

    def count_starts(self, number: int) -> None:
        """Locked, or with the supervisor's lock. Set that number; into existing blocks, as the process ids."""
        with open(os.open(self._starts, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as file:  # not emptied, as a path is
            file.write(f"{number:<8}".encode())

    def last_line(self) -> str:
        """The last line that supervisor and worker have printed between runs; empty if they have printed nothing."""
        try:
            printed = read_file(self.log, last=_LONGEST_LINE).decode("utf-8", errors="replace")
        except OSError as error:
            return f"(it cannot be read: {error.strerror})"
        return printed.strip().rpartition("\n")[2]

    def run_ids(self) -> list[str]:
        """The ids of all runs with a ticket, the next one first."""
        return list(self._tickets())

    def takeable(self) -> list[str]:
        """The ids of the runs that need a supervisor: all with a ticket, and none while the queue is paused."""
        return [] if self.is_paused() else self.run_ids()

    def waiting(self) -> list[str]:
        """The ids of the runs that have not started, the next one first."""
        queue = self.run_ids()
        return queue[self._started(queue) :]

    def is_paused(self) -> bool:
        """Whether no run may start; one that has started goes on."""
        return self._paused.exists()

    def set_paused(self, paused: bool) -> None:
        """Locked. Let no run start from now on, or let them start again."""
        if paused:
            with report_write_errors(self._paused):
                self._paused.touch()
        else:
            self._paused.unlink(missing_ok=True)

    def add(self, run_id: str) -> None:
        """Locked. Give a run the last ticket."""
        tickets = self._tickets()
        number = max(tickets.values(), default=0) + 1
        with report_write_errors(self.folder / "queue"):
            self._ticket(number, run_id).touch(exist_ok=False)

    def move(self, run_id: str, to: str) -> None:
        """Locked. Change the place of a waiting run among the others that wait.

        Tickets are renamed one at a time and none of these renames but the last changes the order: whoever is killed
        meanwhile has moved the run or has not.

        Args:
            run_id: of the run.
            to: one of `PLACES`, or the id of another waiting run, before which it goes.

        Raises:
            RunError: one of the two does not wait, or there is no such place.
        """
        waiting = self.waiting()
        if run_id not in waiting:
            raise RunError(f"{run_id} does not wait in the queue, so it cannot be moved there.")
        others = [each for each in waiting if each != run_id]
        now = waiting.index(run_id)
        places = dict(zip(PLACES, (0, max(now - 1, 0), min(now + 1, len(others)), len(others)), strict=True))
        if to != run_id and to not in places and to not in others:
            near = difflib.get_close_matches(to, [*places, *others], n=1)
            advice = f"did you mean {near[0]}?" if near else "give the id of a run that waits"
            raise RunError(f"{run_id} cannot be moved to {to!r}, which is none of {', '.join(PLACES)}; {advice}")
        place = now if to == run_id else places[to] if to in places else others.index(to)
        if place == now:
            return
        tickets, started = self._tickets(), [each for each in self.run_ids() if each not in waiting]
        before = [*started, *others[:place]]
        number = tickets[before[-1]] + 1 if before else 0
        in_the_way: list[str] = []
        for each, its in tickets.items():
            if number <= its <= number + len(in_the_way):
                in_the_way.append(each)
        with report_write_errors(self.folder / "queue"):
            for each in reversed(in_the_way):  # up to the first number that is free
                self._ticket(tickets[each], each).rename(self._ticket(tickets[each] + 1, each))
                tickets[each] += 1
            self._ticket(tickets[run_id], run_id).rename(self._ticket(number, run_id))

    def remove(self, run_id: str) -> None:
        """Locked. Remove a run's ticket, if it has one."""
        if (number := self._tickets().get(run_id)) is not None:
            remove(self._ticket(number, run_id))

    def restore(self) -> None:
        """Queue again, oldest first, all submitted runs that have lost their tickets because `.worker` was removed."""
        self.prepare()
        with self.locked():
            known = set(self.run_ids())
            for run in reversed(list_runs(self.root)):
                status = run.readable_status()
                if run.id not in known and run.was_submitted() and status is not None and status.state == "queued":
                    self.add(run.id)

    def place(self, run_id: str) -> int | None:
        """How many runs start up to and with this one, from now on: 1 = next; None without a ticket."""
        queue = self.run_ids()
        if run_id not in queue:
            return None
        before = queue[: queue.index(run_id)]
        return len(before) + 1 - self._started(before)

    def _started(self, queue: Sequence[str]) -> int:
        """How many have started, of runs in the order of their tickets, in which they start."""
        for number, run_id in enumerate(queue):
            status = Run(self.root / run_id).readable_status()
            if status is None or status.state == "queued":
                return number
        return len(queue)

    def runs(self) -> list[Run]:
        """Locked. The runs with a ticket, the next one first; tickets of runs that are gone are removed."""
        runs = []
        for run_id in self.run_ids():
            run = Run(self.root / run_id)
            if os.path.isdir(run.folder) and not os.path.islink(run.folder):
                runs.append(run)
            else:
                self.remove(run_id)
        return runs

    def finish_abandoned(self, besides: Collection[str] = ()) -> None:
        """Locked, with the supervisor's lock. Finish what was running when the supervisor died with its workers.

        Args:
            besides: the runs that are being executed.
        """
        for run in self.runs():
            status = run.readable_status()
            if run.id in besides or status is None or status.state == "queued":
                continue
            if not status.ended:
                how = "its supervisor died with it, or the machine was restarted"
                try:
                    if run.is_held():
                        continue
                    finish_run(run, "failed", error=worker_died(how))
                except Exception:  # noqa: BLE001  a damaged folder must not hold up the runs behind it
                    _log.exception("%s could not be finished as failed", run.id)
            self.remove(run.id)

    def _tickets(self) -> dict[str, int]:
        """The number of each run's ticket, the next one first."""
        found = (_TICKET.fullmatch(path.name) for path in entries(self.folder / "queue"))
        return {match[2]: int(match[1]) for match in found if match}

    def _ticket(self, number: int, run_id: str) -> Path:
        return self.folder / "queue" / f"{number:012d}.{run_id}"
