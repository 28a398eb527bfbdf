"""A queue of its own for a test, with real processes that are all gone when the test is over."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from wanavatar_lab import locks
from wanavatar_lab.jobs import Job, submit
from wanavatar_lab.requests.custom_stages import register_extra_stages
from wanavatar_lab.worker.queue import ProcessIds, RunQueue

REPOSITORY = Path(__file__).resolve().parent.parent
PATIENCE = 20.0  # seconds; only a failing test waits so long


def eventually(what: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """What `what` returns as soon as that is true."""
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, f"not true after {seconds} s"
        time.sleep(0.01)
    return value


def is_alive(pid: int) -> bool:
    """Whether a process still runs, or a thread of it, by which it still has its locks; to be counted is no running."""
    try:
        ended = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        return not ended or len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):  # gone before, or while it was read
        return False


@dataclass
class QueueUnderTest:
    """A runs folder with its queue; remembers every supervisor and worker it saw."""

    runs_dir: Path
    seen: set[int] = field(default_factory=set)

    def submit(self, **values: Any) -> Job:
        """Submit a run of the test stage."""
        from tests.stages_for_tests import Relax

        return submit(Relax(profile="pocket", **values), runs_dir=self.runs_dir)

    def process_ids(self) -> ProcessIds:
        """Who is at work; waits until someone is."""
        pids: ProcessIds = eventually(RunQueue(self.runs_dir).process_ids)
        self.seen |= {pids.supervisor, *pids.workers}
        return pids

    def worker_at(self, job: Job, step: int = 0) -> int:
        """The process id of the only worker, once `job` has done that step."""
        eventually(lambda: job.run.status().phase == "relax" and steps_done(job) >= step)
        (worker,) = self.process_ids().workers
        return worker

    def client(self, code: str, **popen: Any) -> subprocess.Popen[str]:
        """Another client: a Python process that executes `code` and may print."""
        head = "from tests.stages_for_tests import Relax\nfrom wanavatar_lab.jobs import *\n"
        return subprocess.Popen([sys.executable, "-c", head + code], cwd=REPOSITORY, text=True, **popen)

    def close(self) -> None:
        """End the supervisor, and see that it left nothing; what it did leave is killed, so that no test does."""
        if (pids := RunQueue(self.runs_dir).process_ids()) is not None:
            self.seen |= {pids.supervisor, *pids.workers}
        try:
            eventually(self._is_left)
            eventually(lambda: not any(is_alive(pid) for pid in self.seen))
        finally:
            for pid in filter(is_alive, self.seen):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _is_left(self) -> bool:
        """Whether no supervisor is left; one that is, or that has replaced a killed one, is stopped."""
        queue = RunQueue(self.runs_dir)
        if not locks.is_locked(queue.folder / "lock"):
            return True
        if (pids := queue.process_ids()) is not None and is_alive(pids.supervisor):
            self.seen.add(pids.supervisor)
            with suppress(ProcessLookupError):  # ended by itself in between
                os.kill(pids.supervisor, signal.SIGTERM)
        return False


def monitor_of(supervisor: int) -> int:
    """The monitor of a supervisor, which replaces it when it is killed: its parent."""
    return int(Path(f"/proc/{supervisor}/stat").read_text().rpartition(")")[2].split()[1])


def steps_done(job: Job) -> int:
    """How many steps the stage has really done, by its own ledger."""
    ledger = job.run.folder / "steps.txt"
    return len(ledger.read_text().splitlines()) if ledger.exists() else 0


def let_go(job: Job) -> None:
    """Let a run that holds at a step continue."""
    (job.run.folder / "go").touch()


def use_queue(patch: pytest.MonkeyPatch, runs_dir: Path, *, idle_seconds: int = 5) -> Path:
    """The environment of a queue, for this process and those that it starts."""
    patch.setenv("WANAVATAR_RUNS_DIR", str(runs_dir))
    patch.setenv("WANAVATAR_EXTRA_STAGES", "relax=tests.stages_for_tests")
    patch.setenv("WANAVATAR_WORKER_IDLE_SECONDS", str(idle_seconds))
    patch.setenv("WANAVATAR_DEVICE", "cpu")
    patch.setenv("PYTHONPATH", str(REPOSITORY))
    register_extra_stages()
    return runs_dir


@pytest.fixture(name="queue_settings")
def queue_settings_fixture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A runs folder of the test's own, which is not there yet."""
    return use_queue(monkeypatch, tmp_path / "runs")


@pytest.fixture(name="queue")
def queue_fixture(queue_settings: Path) -> Iterator[QueueUnderTest]:
    """A queue of the test's own, with its processes."""
    queue = QueueUnderTest(queue_settings)
    yield queue
    queue.close()


@pytest.fixture(name="shared_queue", scope="module")
def shared_queue_fixture(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QueueUnderTest]:
    """One queue for all tests of a file that leave it as they found it: processes take a second to start."""
    with pytest.MonkeyPatch.context() as patch:
        queue = QueueUnderTest(use_queue(patch, tmp_path_factory.mktemp("shared") / "runs", idle_seconds=60))
        yield queue
        queue.close()
