"""What is killed, and what then happens: SIGKILL on real processes, and a crash below Python."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.lane_for_tests import (  # noqa: F401  fixtures
    PATIENCE,
    LaneUnderTest,
    eventually,
    is_alive,
    lane_fixture,
    lane_settings_fixture,
    let_go,
    steps_done,
)
from wanavatar_lab.jobs import attach, list_jobs

LIMIT = 10.0  # seconds that the promise gives a dead worker's run to end


def state_on_disk(folder: Path) -> str:
    """The state as a stranger reads it, who wakes nobody by looking."""
    return str(json.loads((folder / "status.json").read_bytes())["state"])


def test_a_killed_worker_fails_its_run_alone_and_unwatched(lane: LaneUnderTest) -> None:
    job, queued = lane.submit(hold_at=2), lane.submit(seed=5)
    worker = lane.worker_at(job, step=2)
    (job.run.folder / ".half.npy").write_bytes(b"half")
    killed = time.monotonic()
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: state_on_disk(job.run.folder) == "failed", LIMIT)
    assert time.monotonic() - killed < LIMIT
    status = job.status()
    assert status.error is not None and status.error.startswith("worker died (signal 9, SIGKILL")
    assert status.finished_at is not None and status.eta_seconds is None
    manifest = job.run.manifest()
    assert manifest["state"] == "failed" and manifest["seed"] == status.seed is not None
    assert [path.name for path in job.run.folder.rglob(".*")] == []
    eventually(lambda: state_on_disk(queued.run.folder) == "succeeded", LIMIT)
    fresh = queued.run.manifest()["facts"]["process"]
    assert fresh != worker and is_alive(fresh)


def test_a_worker_killed_while_idle_costs_the_next_run_nothing(lane: LaneUnderTest) -> None:
    assert lane.submit().wait(PATIENCE).state == "succeeded"
    worker = lane.note().worker
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    after = lane.submit()
    assert after.wait(PATIENCE).state == "succeeded"
    assert after.run.manifest()["facts"]["process"] != worker


def test_what_a_killed_worker_had_started_is_killed_too(lane: LaneUnderTest) -> None:
    job = lane.submit(fault="child")
    child = eventually(lambda: (job.run.folder / "child").exists() and (job.run.folder / "child").read_text())
    os.kill(lane.worker_at(job), signal.SIGKILL)
    assert job.wait(PATIENCE).state == "failed"
    eventually(lambda: not is_alive(int(child)))


def test_a_crash_below_python_is_named_and_leaves_its_traceback_in_the_log(lane: LaneUnderTest) -> None:
    job = lane.submit(fault="crash")
    status = job.wait(PATIENCE)
    assert status.state == "failed" and status.error is not None
    assert status.error.startswith("worker died (signal 11, SIGSEGV)")
    assert "Segmentation fault" in job.run.log_tail() and "stages_for_tests.py" in job.run.log_tail()
    assert lane.submit().wait(PATIENCE).state == "succeeded"


def test_a_worker_that_cannot_even_start_fails_the_run(lane: LaneUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    shadow = lane.runs_dir.parent / "shadow"
    shadow.mkdir()
    (shadow / "ctypes.py").write_text("raise RuntimeError('a broken installation')")
    monkeypatch.setenv("PYTHONPATH", f"{shadow}{os.pathsep}{os.environ['PYTHONPATH']}")
    status = lane.submit().wait(PATIENCE)
    assert status.error is not None and status.error.startswith("worker died (exit code 1). See the end of ")
    assert "a broken installation" in (lane.runs_dir / ".worker" / "worker.log").read_text()


def test_keeper_and_worker_killed_is_seen_by_the_next_who_looks(lane: LaneUnderTest) -> None:
    job, queued = lane.submit(hold_at=1), lane.submit()
    worker = lane.worker_at(job, step=1)
    keeper = lane.note().keeper
    os.kill(keeper, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: not is_alive(worker) and not is_alive(keeper))
    assert state_on_disk(job.run.folder) == "running"
    assert [other.id for other in list_jobs()] == [queued.id, job.id]
    assert job.run.status().state == "failed"
    assert (job.run.status().error or "").startswith("worker died (its keeper died with it")
    assert queued.run.status().state == "queued"
    assert queued.wait(PATIENCE).state == "succeeded", "who waits for a queued run sees that it goes on"


def test_the_next_submit_sees_the_dead_and_takes_over(lane: LaneUnderTest) -> None:
    job = lane.submit(hold_at=1)
    worker = lane.worker_at(job, step=1)
    keeper = lane.note().keeper
    os.kill(keeper, signal.SIGKILL)
    eventually(lambda: not is_alive(worker))
    after = lane.submit()
    eventually(lambda: state_on_disk(after.run.folder) == "succeeded")
    assert state_on_disk(job.run.folder) == "failed"


def test_the_worker_dies_with_its_keeper(lane: LaneUnderTest) -> None:
    job = lane.submit(hold_at=1, fault="deaf")
    worker = lane.worker_at(job, step=1)
    os.kill(lane.note().keeper, signal.SIGKILL)
    eventually(lambda: not is_alive(worker))
    assert job.wait(PATIENCE).state == "failed"
    assert steps_done(job) == 1


def test_a_process_forked_by_a_stage_does_not_stand_for_its_dead_worker(lane: LaneUnderTest) -> None:
    job, queued = lane.submit(fault="fork"), lane.submit()
    child = int(eventually(lambda: (job.run.folder / "child").exists() and (job.run.folder / "child").read_text()))
    worker = lane.worker_at(job)
    os.kill(lane.note().keeper, signal.SIGKILL)
    eventually(lambda: not is_alive(worker))
    assert is_alive(child)
    try:
        assert job.wait(PATIENCE).state == "failed"
        assert queued.wait(PATIENCE).state == "succeeded"
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_dead_run_that_cannot_be_ended_does_not_hold_up_the_next(lane: LaneUnderTest) -> None:
    job, queued = lane.submit(hold_at=1), lane.submit()
    worker = lane.worker_at(job, step=1)
    os.kill(lane.note().keeper, signal.SIGKILL)
    eventually(lambda: not is_alive(worker))
    for name in ("manifest.json", ".reserve.manifest.json"):  # a folder where a file has to go
        (job.run.folder / name).unlink(missing_ok=True)
        (job.run.folder / name).mkdir()
    (job.run.folder / "manifest.json" / "in the way").touch()
    status = job.wait(PATIENCE)
    assert status.state == "failed" and "could not be written into its folder" in (status.error or "")
    assert queued.wait(PATIENCE).state == "succeeded"


def test_a_keeper_told_to_end_ends_its_run_and_leaves_the_queue_for_the_next(lane: LaneUnderTest) -> None:
    job, queued = lane.submit(hold_at=1), lane.submit()
    worker = lane.worker_at(job, step=1)
    os.kill(lane.note().keeper, signal.SIGTERM)
    eventually(lambda: state_on_disk(job.run.folder) == "failed")
    eventually(lambda: not is_alive(worker))
    assert (job.status().error or "").startswith("worker died (its keeper was told to end")
    assert queued.wait(PATIENCE).state == "succeeded"


def test_a_killed_run_in_a_clients_own_process_is_seen(lane: LaneUnderTest) -> None:
    client = lane.client("run_here(Relax(profile='pocket', hold_at=1))", stdout=subprocess.DEVNULL)
    (job,) = eventually(list_jobs)
    eventually(lambda: steps_done(job) == 1)
    assert job.status().state == "running"
    os.kill(client.pid, signal.SIGKILL)
    client.wait()
    status = attach(job.id).status()
    assert status.state == "failed" and (status.error or "").startswith("worker died (the process that executed it")


def test_ctrl_c_on_a_run_in_ones_own_process_cancels_it(lane: LaneUnderTest) -> None:
    client = lane.client("run_here(Relax(profile='pocket', hold_at=1))", stderr=subprocess.PIPE)
    (job,) = eventually(list_jobs)
    eventually(lambda: steps_done(job) == 1)
    os.kill(client.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in client.communicate(timeout=PATIENCE)[1]
    assert job.run.status().state == "cancelled" and job.run.manifest()["state"] == "cancelled"


def test_a_run_whose_folder_is_removed_does_not_hold_up_the_next(lane: LaneUnderTest) -> None:
    job, after = lane.submit(hold_at=1), lane.submit()
    lane.worker_at(job, step=1)
    keeper = lane.note().keeper
    moved = job.run.folder.rename(lane.runs_dir.parent / "moved away")
    (moved / "go").touch()
    job.run.folder.mkdir()
    (job.run.folder / "go").touch()
    assert after.wait(PATIENCE).state == "succeeded"
    assert lane.note().keeper == keeper


def test_a_request_damaged_in_the_queue_fails_with_its_reason(lane: LaneUnderTest) -> None:
    first, damaged, last = lane.submit(hold_at=1), lane.submit(), lane.submit()
    lane.worker_at(first, step=1)
    (damaged.run.folder / "request.json").write_text("{")
    let_go(first)
    assert last.wait(PATIENCE).state == "succeeded"
    status = damaged.status()
    assert status.state == "failed" and "request.json cannot be read" in (status.error or "")
    assert "incomplete" in damaged.run.manifest()
