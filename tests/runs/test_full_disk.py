"""A full or read-only disk: the run reports it, nothing is half-written or damaged, and the last status is written."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.queue_for_tests import (  # noqa: F401  fixtures
    PATIENCE,
    QueueUnderTest,
    eventually,
    is_alive,
    let_go,
    queue_settings_fixture,
    steps_done,
)
from tests.stages_for_tests import Relax
from wanavatar_lab.errors import DiskFull, LabError
from wanavatar_lab.jobs import attach, list_jobs, run_here, submit
from wanavatar_lab.runs import reserved_space
from wanavatar_lab.runs.run import Run, list_runs
from wanavatar_lab.runs.status import Status
from wanavatar_lab.settings import Settings
from wanavatar_lab.worker.queue import RunQueue

DISK = 1024 * 1024  # bytes


@pytest.fixture(name="disk")
def disk_fixture(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"needs to mount a tmpfs, and mount says: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.fixture(name="small_queue")
def small_queue_fixture(disk: Path, queue_settings: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[QueueUnderTest]:
    """A queue whose runs folder is on the small disk."""
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(disk / "runs"))
    queue = QueueUnderTest(disk / "runs")
    yield queue
    queue.close()


def fill(disk: Path) -> Path:
    """Leave not a single free block."""
    path = disk / "filler"
    with open(path, "ab", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                continue
    assert os.statvfs(disk).f_bavail == 0
    return path


def digests(run: Run) -> dict[str, str]:
    """Every file of a run by its contents."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(run.folder.iterdir())}


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if ".worker" not in path.parts]


def test_a_result_that_finds_no_room_ends_the_run_with_words(small_queue: QueueUnderTest) -> None:
    earlier = small_queue.submit(kilobytes=100)
    assert earlier.wait(PATIENCE).state == "succeeded"
    before = digests(earlier.run)
    job, after = small_queue.submit(kilobytes=2000), small_queue.submit(kilobytes=100)
    status = job.wait(PATIENCE, check=False)
    assert status.state == "failed"
    assert (status.error or "").startswith(f"There is no room for result.npy in {job.run.folder}. Free some space")
    assert job.run.manifest()["state"] == "failed"
    assert hidden(job.run.folder) == [] and not (job.run.folder / "result.npy").exists()
    assert after.wait(PATIENCE).state == "succeeded", "what was half-written made room again"
    assert digests(earlier.run) == before


@pytest.mark.parametrize("kilobytes", [0, 500])
def test_the_last_status_is_written_with_not_one_block_free(
    small_queue: QueueUnderTest, disk: Path, kilobytes: int
) -> None:
    earlier = small_queue.submit()
    assert earlier.wait(PATIENCE).state == "succeeded"
    before = digests(earlier.run)
    job, queued = small_queue.submit(hold_at=1, steps=2, kilobytes=kilobytes), small_queue.submit(kilobytes=500)
    small_queue.worker_at(job, step=1)
    filler = fill(disk)
    let_go(job)
    status = job.wait(PATIENCE, check=False)
    assert status.state == "failed" and "There is no room for" in (status.error or "")
    assert (queued.wait(PATIENCE, check=False).error or "").startswith("There is no room for")
    for run in (job.run, queued.run):
        assert json.loads((run.folder / "status.json").read_bytes())["state"] == "failed"
        assert run.manifest()["state"] == "failed"
        assert hidden(run.folder) == []
    assert digests(earlier.run) == before
    filler.unlink()
    assert small_queue.submit().wait(PATIENCE).state == "succeeded"


def test_a_worker_killed_on_a_full_disk_is_still_said(small_queue: QueueUnderTest, disk: Path) -> None:
    job = small_queue.submit(hold_at=1)
    worker = small_queue.worker_at(job, step=1)
    fill(disk)
    os.kill(worker, 9)
    assert (job.wait(PATIENCE, check=False).error or "").startswith("worker died (signal 9")
    assert job.run.manifest()["state"] == "failed"


def test_a_run_is_cancelled_on_a_full_disk(small_queue: QueueUnderTest, disk: Path) -> None:
    job, queued = small_queue.submit(hold_at=1), small_queue.submit()
    small_queue.worker_at(job, step=1)
    fill(disk)
    queued.cancel()
    job.cancel()
    assert queued.run.status().state == "cancelled"
    assert job.wait(PATIENCE, check=False).state == "cancelled"


def test_a_submit_that_finds_no_room_leaves_nothing(small_queue: QueueUnderTest, disk: Path) -> None:
    small_queue.submit().wait(PATIENCE)
    filler = fill(disk)
    before = sorted(path for path in small_queue.runs_dir.rglob("*"))
    with pytest.raises(DiskFull, match="There is no room for"):
        small_queue.submit()
    assert sorted(path for path in small_queue.runs_dir.rglob("*")) == before
    assert len(list_jobs()) == 1
    filler.unlink()


def test_a_read_only_runs_folder_is_listed_and_submit_names_it(queue_settings: Path, disk: Path) -> None:
    runs = disk / "runs"
    ended = run_here(Relax(), runs_dir=runs)
    abandoned, queued = Run.create(Relax(), runs_dir=runs), Run.create(Relax(), runs_dir=runs)
    abandoned.write_status(Status(state="running"))
    queued.write_settings(Settings())  # as if submitted
    RunQueue(runs).prepare()
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    states = {job.id: job.status().state for job in list_jobs(runs_dir=runs)}
    assert states == {ended.id: "succeeded", abandoned.id: "failed", queued.id: "queued"}
    said = f"{runs}: Read-only file system"
    with pytest.raises(LabError, match=said):
        submit(Relax(), runs_dir=runs)
    with pytest.raises(LabError, match=f"{runs}/.*: Read-only file system"):
        attach(queued.id, runs_dir=runs).cancel()
    attach(ended.id, runs_dir=runs).cancel()


def test_a_file_size_limit_ends_the_run_with_words(queue_settings: Path) -> None:
    queue = QueueUnderTest(queue_settings)
    # the supervisor and the worker inherit the limit from the client that starts them
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "jobs = [submit(Relax(profile='pocket', kilobytes=size)) for size in (100, 1000, 100)]\n"
        "print(*[job.id for job in jobs]); [job.wait(check=False) for job in jobs]"
    )
    try:
        client = queue.client(code, stdout=subprocess.PIPE)
        jobs = [attach(run_id) for run_id in client.communicate(timeout=PATIENCE)[0].split()]
        assert [job.status().state for job in jobs] == ["succeeded", "failed", "succeeded"]
        assert (jobs[1].status().error or "").startswith("There is no room for result.npy")
        assert hidden(jobs[1].run.folder) == []
    finally:
        queue.close()


def test_reserved_space_is_given_back(queue_settings: Path) -> None:
    run = Run.create(Relax())
    aside = [path for path in run.folder.iterdir() if reserved_space.is_reserved_space(path)]
    assert sorted(path.stat().st_size for path in aside) == sorted(reserved_space.SIZES.values())
    assert all(path.stat().st_blocks * 512 >= path.stat().st_size for path in aside), "blocks, not holes"
    ended = run_here(Relax())
    assert [path for path in ended.folder.iterdir() if reserved_space.is_reserved_space(path)] == []
    assert len(list_runs()) == 2


def test_text_longer_than_the_reserved_space_is_refused_and_changes_nothing(disk: Path) -> None:
    reserved_space.reserve(disk)
    path = disk / "status.json"
    path.write_text("old")
    fill(disk)
    with pytest.raises(DiskFull):
        reserved_space.write_last(path, "x" * (reserved_space.SIZES["status.json"] + 1))
    assert path.read_text() == "old"
    reserved_space.write_last(path, "new")
    assert path.read_text() == "new"
    fill(disk)
    with pytest.raises(DiskFull):
        reserved_space.write_last(path, "newer")
    assert path.read_text() == "new"
