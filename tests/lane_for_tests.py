"""A lane of its own for a test, with real processes that are all gone when the test is over."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from wanavatar_lab.extensions import register_extra_stages
from wanavatar_lab.jobs import Job, submit
from wanavatar_lab.lane import Lane, LaneNote

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
    """Whether a process still runs; one that only waits to be counted does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # gone before, or while it was read
        return False


@dataclass
class LaneUnderTest:
    """A runs folder with its lane; remembers every keeper and worker it saw."""

    runs_dir: Path
    seen: set[int] = field(default_factory=set)

    def submit(self, **values: Any) -> Job:
        """Submit a run of the test stage."""
        from tests.stages_for_tests import Relax

        return submit(Relax(profile="pocket", **values), runs_dir=self.runs_dir)

    def note(self) -> LaneNote:
        """Who is at work; waits until someone is."""
        note: LaneNote = eventually(Lane(self.runs_dir).note)
        self.seen |= {pid for pid in (note.keeper, note.worker) if pid}
        return note

    def worker_at(self, job: Job, step: int = 0) -> int:
        """The process id of the worker, once `job` has done that step."""
        eventually(lambda: job.run.status().phase == "relax" and steps_done(job) >= step)
        worker = self.note().worker
        assert worker is not None
        return worker

    def client(self, code: str, **popen: Any) -> subprocess.Popen[str]:
        """Another client: a Python process that executes `code` and may print."""
        head = "from tests.stages_for_tests import Relax\nfrom wanavatar_lab.jobs import *\n"
        return subprocess.Popen([sys.executable, "-c", head + code], cwd=REPOSITORY, text=True, **popen)

    def close(self) -> None:
        """End the keeper, and see that nothing is left."""
        if (note := Lane(self.runs_dir).note()) is not None:
            self.seen |= {pid for pid in (note.keeper, note.worker) if pid}
            if is_alive(note.keeper):
                os.kill(note.keeper, signal.SIGTERM)
        eventually(lambda: not any(is_alive(pid) for pid in self.seen))


def steps_done(job: Job) -> int:
    """How many steps the stage has really done, by its own ledger."""
    ledger = job.run.folder / "steps.txt"
    return len(ledger.read_text().splitlines()) if ledger.exists() else 0


def let_go(job: Job) -> None:
    """Let a run that holds at a step go on."""
    (job.run.folder / "go").touch()


@pytest.fixture(name="lane_settings")
def lane_settings_fixture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The environment of a lane in a folder of its own, for this process and those that it starts."""
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WANAVATAR_EXTRA_STAGES", "relax=tests.stages_for_tests")
    monkeypatch.setenv("WANAVATAR_WORKER_IDLE_SECONDS", "5")
    monkeypatch.setenv("WANAVATAR_DEVICE", "cpu")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    register_extra_stages()
    return tmp_path / "runs"


@pytest.fixture(name="lane")
def lane_fixture(lane_settings: Path) -> Iterator[LaneUnderTest]:
    """A lane with its processes."""
    lane = LaneUnderTest(lane_settings)
    yield lane
    lane.close()
