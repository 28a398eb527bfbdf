"""The queue of a runs folder: the order of its runs, and the lock of the one supervisor that takes them.

    <runs_dir>/.worker/queue/000000000007.<run id>    a ticket: a run that has not ended; lower numbers go first
                       queue.lock                     held for a moment by whoever looks at or changes the order
                       lock                           held by the supervisor while it lives; says its process id
                       starts                         how many supervisors in a row died before they served
                       worker.log                     what supervisor and worker print between runs

Clients of several machines may share a runs folder on a disk whose locks work between them.
"""

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from wanavatar_lab import locks
from wanavatar_lab.errors import RunError
from wanavatar_lab.files import Entry, entries, remove
from wanavatar_lab.runs.finish import finish_run
from wanavatar_lab.runs.reserved_space import says_disk_full
from wanavatar_lab.runs.run import Run
from wanavatar_lab.runs.status import Status
from wanavatar_lab.worker.error_messages import worker_died

_NOTE_BYTES = 512
_LONGEST_LINE = 1000  # bytes of the log; the error that quotes its last line has to fit into a status
_TICKET = re.compile(r"\d{12}\..+")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProcessIds:
    """What the supervisor says of itself: process ids on its machine, and what is loaded."""

    supervisor: int
    worker: int | None = None
    warm: str | None = None


class RunQueue:
    """The queue of one runs folder. Methods marked "locked" are to be called within `locked()`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".worker"
        self.log = self.folder / "worker.log"
        self._starts = self.folder / "starts"

    def prepare(self) -> None:
        """Make the queue's files, with all the blocks that the supervisor will need.

        Raises:
            DiskFull: there is no room.
        """
        with says_disk_full(self.folder / "the queue"):
            (self.folder / "queue").mkdir(parents=True, exist_ok=True)
            self.log.touch()
            if not self._starts.exists():
                self.count_starts(0)
            with open(self.folder / "lock", "ab") as file:
                if file.tell() < _NOTE_BYTES:
                    file.write(b" " * _NOTE_BYTES)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the order of the queue still; waits for others, who hold it for milliseconds.

        Raises:
            FileNotFoundError: the queue was never prepared, or its folder is gone.
        """
        with locks.locked(self.folder / "queue.lock"):
            yield

    def claim(self) -> int | None:
        """Locked. Take the supervisor's lock: a handle for `locks.drop`, or None if a supervisor lives."""
        return locks.take(self.folder / "lock", wait=False)

    def is_ours(self, handle: int) -> bool:
        """Whether `handle` still is the lock that others would try: not if the queue's folder was removed."""
        try:
            return os.path.samestat(os.fstat(handle), os.stat(self.folder / "lock"))
        except FileNotFoundError:
            return False

    def write_note(self, handle: int, note: ProcessIds) -> None:
        """Say in the lock's file who holds it; into blocks that are there, so that a full disk does not matter."""
        os.pwrite(handle, json.dumps(asdict(note)).encode().ljust(_NOTE_BYTES), 0)

    def note(self) -> ProcessIds | None:
        """What the last supervisor said of itself; it may be gone."""
        try:
            return ProcessIds(**json.loads((self.folder / "lock").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def starts(self) -> int:
        """How many supervisors were started since one last began to serve."""
        try:
            return int(self._starts.read_bytes())
        except (OSError, ValueError):
            return 0

    def count_starts(self, number: int) -> None:
        """Locked, or with the supervisor's lock. Write that number down; into blocks that are there, as the note."""
        handle = os.open(self._starts, os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.pwrite(handle, f"{number:<8}".encode(), 0)
        finally:
            os.close(handle)

    def last_line(self) -> str:
        """The last line that supervisor and worker have printed between runs; empty if they have printed nothing."""
        try:
            with open(self.log, "rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _LONGEST_LINE))
                lines = file.read().decode("utf-8", errors="replace").split("\n")
        except OSError as error:
            return f"(it cannot be read: {error.strerror})"
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def run_ids(self) -> list[str]:
        """The ids of all runs with a ticket, first come first."""
        return [name.partition(".")[2] for name in self._tickets()]

    def add(self, run_id: str) -> None:
        """Locked. Give a run the last ticket."""
        tickets = self._tickets()
        number = int(tickets[-1].partition(".")[0]) + 1 if tickets else 1
        with says_disk_full(self.folder / "the queue"):
            (self.folder / "queue" / f"{number:012d}.{run_id}").touch(exist_ok=False)

    def remove(self, run_id: str) -> None:
        """Locked. Take a run's ticket away, if it has one."""
        for name in self._tickets():
            if name.partition(".")[2] == run_id:
                remove(self.folder / "queue" / name)

    def place(self, run_id: str) -> int | None:
        """How many runs start up to and with this one, from now on: 1 = next; None without a ticket."""
        queue = self.run_ids()
        if run_id not in queue:
            return None
        before = queue[: queue.index(run_id)]
        # only the first can have started
        started = bool(before) and (head := self._status(before[0])) is not None and head.state != "queued"
        return len(before) + 1 - started

    def runs(self) -> list[Run]:
        """Locked. The runs with a ticket, first come first; tickets of runs that are gone are removed."""
        runs = []
        for run_id in self.run_ids():
            if Entry(self.root / run_id).is_folder():
                runs.append(Run(self.root / run_id))
            else:
                self.remove(run_id)
        return runs

    def bury(self) -> None:
        """Locked, with the supervisor's lock claimed. End what a supervisor left running when it died with its worker."""
        for run in self.runs():
            status = self._status(run.id)
            if status is None or status.state == "queued":
                continue
            if not status.ended:
                try:
                    if run.is_held():
                        continue
                    finish_run(
                        run, "failed", error=worker_died("its supervisor died with it, or the machine was restarted")
                    )
                except Exception:  # noqa: BLE001  whatever is wrong with its folder, the runs behind it must go on
                    _log.exception("%s could not be ended as failed", run.id)
            self.remove(run.id)

    def _tickets(self) -> list[str]:
        return [entry.name for entry in entries(self.folder / "queue") if _TICKET.fullmatch(entry.name)]

    def _status(self, run_id: str) -> Status | None:
        try:
            return Run(self.root / run_id).status()
        except RunError:
            return None
