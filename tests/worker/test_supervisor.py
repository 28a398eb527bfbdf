"""The supervisor's loop in this process, with workers that do what a test says."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import pytest

from tests.queue_for_tests import queue_settings_fixture
from tests.stages_for_tests import Relax
from wanavatar_lab import locks
from wanavatar_lab.profiles import Profile
from wanavatar_lab.runs.finish import finish_run
from wanavatar_lab.runs.run import Run
from wanavatar_lab.runs.status import RUNNING
from wanavatar_lab.settings import Settings, read_settings
from wanavatar_lab.worker import supervisor
from wanavatar_lab.worker.engine import Place
from wanavatar_lab.worker.queue import RunQueue
from wanavatar_lab.worker.supervisor import Supervisor

__all__ = ["queue_settings_fixture"]

News = Literal["done", "died"] | None


class ToldWorker:
    """A worker without a process; `looks` is asked for its news, with its run and how often that was looked at."""

    pid = 0

    def __init__(self, runs_dir: Path, looks: Callable[[Run, int], News]) -> None:
        self._runs_dir, self._looks = runs_dir, looks

    def give(self, run_id: str, gpus: int = 0) -> None:
        self._run, self._count = Run(self._runs_dir / run_id), 0

    def news(self, seconds: float) -> News:
        self._count += 1
        return self._looks(self._run, self._count)

    def is_alive(self) -> bool:
        return True

    def kill(self) -> int:
        return -9


class ToldEngine:
    """So many places."""

    def __init__(self, most: int, looks: Callable[[Run, int], News]) -> None:
        self._most, self._looks = most, looks

    def choose(
        self, settings: Settings, profile: Profile, places: Sequence[Place], *, others: bool
    ) -> tuple[Place, tuple[str, ...]] | None:
        idle = [place for place in places if place.run is None]
        if len(places) - len(idle) == self._most:
            return None
        return (idle[0] if idle else Place({})), ()

    def start(self, place: Place, runs_dir: Path) -> ToldWorker:
        return ToldWorker(runs_dir, self._looks)

    def close(self) -> None:
        pass


@pytest.fixture
def queue(queue_settings: Path, monkeypatch: pytest.MonkeyPatch) -> RunQueue:
    monkeypatch.setenv("WANAVATAR_WORKER_IDLE_SECONDS", "0.001")
    made = RunQueue(queue_settings)
    made.prepare()
    return made


def queued(queue: RunQueue, count: int) -> list[Run]:
    """So many runs, for which no other supervisor is started."""
    runs = [Run.create(Relax(profile="pocket"), runs_dir=queue.root) for _ in range(count)]
    with queue.locked():
        for run in runs:
            run.write_settings(read_settings())
            queue.add(run.id)
    return runs


def serve(queue: RunQueue, most: int, looks: Callable[[Run, int], News], patch: pytest.MonkeyPatch) -> None:
    """Supervise the queue until it is idle."""
    patch.setattr(supervisor, "engine_of", lambda name, runs_dir: ToldEngine(most, looks))
    with queue.locked():
        handle = queue.claim()
    assert handle is not None
    lock = os.dup(handle)
    locks.drop(handle)
    Supervisor(queue, lock).serve()


def test_runs_go_on_when_one_ends_after_the_queue_was_removed(queue: RunQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = queued(queue, 2)

    def looks(run: Run, count: int) -> News:
        if run == first:
            shutil.rmtree(queue.folder)
        elif count < 3:
            return None
        finish_run(run, "succeeded")
        return "done"

    serve(queue, 2, looks, monkeypatch)
    assert [run.status().state for run in (first, second)] == ["succeeded"] * 2


def test_the_files_of_a_run_that_waits_are_read_once_and_again_when_they_change(
    queue: RunQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = queued(queue, 2)
    read: list[str] = []
    monkeypatch.setattr(Run, "settings", reading(Run.settings, read, second))
    at: dict[int, int] = {}

    def looks(run: Run, count: int) -> News:
        at[count] = len(read)
        if run == first and count == 10:
            second.write_settings(read_settings())
        if run == first and count < 20:
            return None
        finish_run(run, "succeeded")
        return "done"

    serve(queue, 1, looks, monkeypatch)
    assert (at[2], at[10], at[12], at[20]) == (1, 1, 2, 2)
    assert second.status().state == "succeeded"


def reading(method: Callable[[Run], Settings], read: list[str], watched: Run) -> Callable[[Run], Settings]:
    """`Run.settings`, which notes when it is asked of `watched`."""

    def settings(run: Run) -> Settings:
        if run == watched:
            read.append(run.id)
        return method(run)

    return settings


def test_a_cancelled_run_has_the_time_that_its_own_settings_give_it(
    queue: RunQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient, hasty = queued(queue, 2)
    hasty.write_settings(read_settings().model_copy(update={"cancel_grace_seconds": 1e-9}))

    def looks(run: Run, count: int) -> News:
        if run == patient and count == 2:
            run.write_status(run.status().model_copy(update={"phase": RUNNING}))
            run.request_cancel()
        if count < (10 if run == patient else 20):
            return None
        finish_run(run, "succeeded")
        return "done"

    serve(queue, 2, looks, monkeypatch)
    assert [run.status().state for run in (patient, hasty)] == ["succeeded"] * 2


def test_a_supervisor_in_the_foreground_frees_the_queue_as_soon_as_it_has_ended(
    queue: RunQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with its process: a client that submits in between would take it for alive, and start none."""

    def monitor(queue: RunQueue, lock: int) -> None:
        assert locks.is_locked(queue.folder / "lock")
        os.close(lock)
        assert not locks.is_locked(queue.folder / "lock")

    monkeypatch.setattr(supervisor, "monitor", monitor)
    supervisor.main(["--runs-dir", str(queue.root)])
