"""Several runs at a time: where each goes, on which GPUs, and what becomes of the others when one dies."""

import os
import signal
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.queue_for_tests import (  # noqa: F401  fixtures
    PATIENCE,
    QueueUnderTest,
    eventually,
    is_alive,
    let_go,
    queue_fixture,
    queue_settings_fixture,
    steps_done,
)
from wanavatar_lab.jobs import Job, list_queue
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.runs.run import Run
from wanavatar_lab.settings import Settings
from wanavatar_lab.worker import local_engine
from wanavatar_lab.worker.engine import Place
from wanavatar_lab.worker.local_engine import LocalEngine, Worker, visible_gpus
from wanavatar_lab.worker.queue import RunQueue

POCKET, FULL = PROFILES["pocket"], PROFILES["full"]


def holding(queue: QueueUnderTest, count: int) -> list[Job]:
    """So many runs that hold at their first step, all at the same time."""
    jobs = [queue.submit(hold_at=1) for _ in range(count)]
    eventually(lambda: all(steps_done(job) == 1 for job in jobs))
    return jobs


def process_of(job: Job) -> int:
    """The worker that made a run."""
    return int(job.run.manifest()["facts"]["process"])


def test_so_many_runs_as_set_are_made_at_the_same_time(queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_WORKERS", "2")
    first, second = holding(queue, 2)
    waiting = [queue.submit() for _ in range(3)]
    assert len(queue.process_ids().workers) == 2
    assert [job.id for job in list_queue()] == [first.id, second.id, *(job.id for job in waiting)]
    assert RunQueue(queue.runs_dir).waiting() == [job.id for job in waiting]
    assert [job.status().queue_place for job in waiting] == [1, 2, 3]
    waiting[2].move("first")
    let_go(second)
    assert [job.wait(PATIENCE).state for job in (second, *waiting)] == ["succeeded"] * 4
    assert waiting[2].status().started_at < waiting[0].status().started_at  # type: ignore[operator]
    assert first.status().state == "running"
    assert {process_of(job) for job in waiting} == {process_of(second)}, "its models are there"
    first.cancel()
    assert first.wait(PATIENCE, check=False).state == "cancelled"


def test_a_worker_that_dies_or_is_cancelled_costs_the_others_nothing(
    queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANAVATAR_WORKERS", "3")
    killed, cancelled, spared = holding(queue, 3)
    workers = {int(Path(f"/proc/{pid}").name) for pid in queue.process_ids().workers}
    victim = next(pid for pid in workers if str(killed.run.folder / "log.txt") in opened_by(pid))
    os.kill(victim, signal.SIGKILL)
    cancelled.cancel(now=True)
    assert (killed.wait(PATIENCE, check=False).error or "").startswith("worker died (signal 9, SIGKILL")
    assert cancelled.wait(PATIENCE, check=False).state == "cancelled"
    after = queue.submit()
    assert after.wait(PATIENCE).state == "succeeded"
    let_go(spared)
    assert spared.wait(PATIENCE).state == "succeeded" and process_of(spared) in workers


def opened_by(pid: int) -> set[str]:
    """The files that a process has open."""
    return {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()}


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_all_workers_end_with_their_supervisor(
    queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch, sent: int
) -> None:
    monkeypatch.setenv("WANAVATAR_WORKERS", "2")
    running = holding(queue, 2)
    queued = queue.submit()
    ids = queue.process_ids()
    os.kill(ids.supervisor, sent)
    eventually(lambda: not any(map(is_alive, ids.workers)))
    states = [job.wait(PATIENCE, check=False) for job in running]
    assert [(status.state, (status.error or "")[:11]) for status in states] == [("failed", "worker died")] * 2
    assert queued.wait(PATIENCE).state == "succeeded"


GPUS = ("0", "1", "2", "3")


@pytest.fixture
def several(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with four GPUs of one model and main memory for four full runs."""
    use_four_gpus(monkeypatch)


def use_four_gpus(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(local_engine, "visible_gpus", lambda visible: GPUS)
    patch.setattr(local_engine, "total_host_bytes", lambda: 4 * 80 * 10**9)


def given_out(
    settings: Sequence[Settings], *, others: bool = True, places: Sequence[Place] = ()
) -> list[tuple[str, ...] | None]:
    """The GPUs assigned to runs that are started in order, while all keep running."""
    engine, taken, uses = LocalEngine(), [*places], []
    for each in settings:
        chosen = engine.choose(each, FULL, taken, others=others)
        uses.append(None if chosen is None else chosen[1])
        if chosen is not None:
            place, place.uses = chosen[0], chosen[1]
            place.run = Run(Path("none"))
            if place not in taken:
                taken.append(place)
    return uses


ONE, TWO, AUTO = (Settings(device="cuda", gpus=gpus) for gpus in ("1", "2", "auto"))


@pytest.mark.usefixtures("several")
def test_waiting_runs_get_a_gpu_each_and_one_alone_gets_all() -> None:
    assert given_out([ONE] * 5) == [("0",), ("1",), ("2",), ("3",), None]
    assert given_out([AUTO] * 5) == [("0",), ("1",), ("2",), ("3",), None]
    assert given_out([AUTO, ONE], others=False) == [GPUS, None]
    assert given_out([ONE, AUTO], others=False) == [("0",), ("1",)]
    assert given_out([TWO, ONE, TWO, ONE]) == [("0", "1"), ("2",), None, ("3",)]
    assert given_out([Settings(device="cuda:1"), ONE]) == [(), None], "a device that is named is the only one"
    assert given_out([Settings(device="cpu"), Settings(device="cpu")]) == [(), None]


@pytest.mark.usefixtures("several")
def test_main_memory_limits_how_many_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_engine, "total_host_bytes", lambda: 170 * 10**9)
    assert given_out([ONE] * 3) == [("0",), ("1",), None]
    assert given_out([Settings(device="cuda", workers="3")] * 4) == [("0",), ("1",), ("2",), None], "unless it is set"


@pytest.mark.usefixtures("several")
def test_a_warm_worker_is_used_again() -> None:
    engine = LocalEngine()
    warm = Place(ONE.for_worker(), ("2",), ("2",))
    assert engine.choose(ONE, FULL, [warm], others=True) == (warm, ("2",))
    place, uses = engine.choose(TWO, FULL, [warm], others=False) or pytest.fail("there is room")
    assert place is not warm and len(uses) == 2, "it sees one GPU only"
    place, uses = engine.choose(ONE.model_copy(update={"compile": "off"}), FULL, [warm], others=True) or pytest.fail()
    assert place is not warm and uses == ("0",), "it has other settings, and another GPU is empty"


@given(st.data())
def test_no_gpu_has_two_runs(data: st.DataObject) -> None:
    with pytest.MonkeyPatch.context() as patch:
        use_four_gpus(patch)
        engine, places = LocalEngine(), list[Place]()
        for _ in range(data.draw(st.integers(1, 12))):
            settings = data.draw(st.sampled_from([ONE, TWO, AUTO]))
            chosen = engine.choose(settings, FULL, places, others=data.draw(st.booleans()))
            if chosen is None:
                assert any(place.run for place in places), "an empty machine takes every run"
            else:
                place, uses = chosen
                assert place.run is None and place.gpus[: len(uses)] == uses and uses
                place.run, place.uses = Run(Path("none")), uses
                places += [place] * (place not in places)
            used = [gpu for place in places if place.run for gpu in place.uses]
            assert len(used) == len(set(used))
            for place in data.draw(st.lists(st.sampled_from(places), max_size=2)) if places else ():
                place.run = None


def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, gpus: int = 2) -> None:
    """A driver of so many GPUs, and an nvidia-smi that answers so."""
    for number in range(gpus):
        (tmp_path / "gpus" / str(number)).mkdir(parents=True)
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<END\n{answer}\nEND\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(local_engine, "_DRIVER", tmp_path / "gpus")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    visible_gpus.cache_clear()


ALIKE = "GPU-a, NVIDIA H200, Disabled\nGPU-b, NVIDIA H200, Disabled"


@pytest.mark.parametrize(
    ("answer", "visible", "found"),
    [
        (ALIKE, None, ("GPU-a", "GPU-b")),
        (ALIKE, "1,0", ("1", "0")),
        (ALIKE, "1", ()),
        (ALIKE, "", ()),
        (ALIKE, "0,-1", ()),
        (ALIKE.replace("Disabled", "[N/A]"), None, ("GPU-a", "GPU-b")),
        (ALIKE.replace("Disabled", "Enabled"), None, ()),
        ("GPU-a, NVIDIA H200, [N/A]\nGPU-b, NVIDIA T400, [N/A]", None, ()),
        ("GPU-a, NVIDIA H200, Disabled", None, ()),
        ("", None, ()),
    ],
)
def test_gpus_are_found_where_all_are_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, visible: str | None, found: tuple[str, ...]
) -> None:
    driver(tmp_path, monkeypatch, answer)
    assert visible_gpus(visible) == found
    visible_gpus.cache_clear()


def test_a_driver_without_its_program_and_a_single_gpu_leave_no_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(tmp_path, monkeypatch, ALIKE)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert visible_gpus(None) == ()
    visible_gpus.cache_clear()
    driver(tmp_path / "single", monkeypatch, ALIKE, gpus=1)
    assert visible_gpus(None) == ()
    visible_gpus.cache_clear()


def test_a_worker_sees_the_gpus_of_its_place(queue_settings: Path) -> None:
    queue_settings.mkdir()
    place = Place({"WANAVATAR_DEVICE": "cpu"}, ("GPU-b", "GPU-a"))
    worker = LocalEngine().start(place, queue_settings)
    try:
        environ = eventually(lambda: Path(f"/proc/{worker.pid}/environ").read_bytes()).split(b"\0")
        assert b"CUDA_VISIBLE_DEVICES=GPU-b,GPU-a" in environ and b"WANAVATAR_DEVICE=cpu" in environ
    finally:
        worker.kill()


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="the system does not show a process's environment")
@pytest.mark.parametrize("own", [None, "300000"])
def test_threads_of_a_worker_soon_sleep_when_they_wait(
    own: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if own is not None:
        monkeypatch.setenv("GOMP_SPINCOUNT", own)
    wanted, worker = f"GOMP_SPINCOUNT={own or 1000}".encode(), Worker(tmp_path, {})
    environment = Path(f"/proc/{worker.pid}/environ")
    try:
        eventually(lambda: wanted in environment.read_bytes().split(b"\0"))
    finally:
        worker.kill()
