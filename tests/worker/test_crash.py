"""What is killed, and what then happens: SIGKILL on real processes, and a crash below Python."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.queue_for_tests import (  # noqa: F401  fixtures
    PATIENCE,
    QueueUnderTest,
    eventually,
    is_alive,
    let_go,
    monitor_of,
    queue_fixture,
    queue_settings_fixture,
    steps_done,
)
from wanavatar_lab.errors import RunsAway
from wanavatar_lab.jobs import Job, attach, list_jobs
from wanavatar_lab.runs.run import Run
from wanavatar_lab.worker.queue import RunQueue
from wanavatar_lab.worker.supervisor import MOST_STARTS

LIMIT = 10.0  # seconds that the promise gives a dead worker's run to end


def state_on_disk(folder: Path) -> str:
    """The state as written, read without `Job.status`, which would start processes."""
    return str(json.loads((folder / "status.json").read_bytes())["state"])


def test_a_killed_worker_fails_its_run_alone_and_unwatched(queue: QueueUnderTest) -> None:
    job, queued = queue.submit(hold_at=2), queue.submit(seed=5)
    worker = queue.worker_at(job, step=2)
    (job.run.folder / ".half.npy").write_bytes(b"half")
    os.kill(worker, signal.SIGKILL)
    eventually(lambda: state_on_disk(job.run.folder) == "failed", LIMIT)
    status = job.status()
    assert status.error is not None and status.error.startswith("worker died (signal 9, SIGKILL")
    assert status.finished_at is not None and status.eta_seconds is None
    manifest = job.run.manifest()
    assert manifest["state"] == "failed" and manifest["seed"] == status.seed is not None
    assert [path.name for path in job.run.folder.rglob(".*")] == []
    eventually(lambda: state_on_disk(queued.run.folder) == "succeeded", LIMIT)
    fresh = queued.run.manifest()["facts"]["process"]
    assert fresh != worker and is_alive(fresh)


def test_a_worker_killed_while_idle_costs_the_next_run_nothing(queue: QueueUnderTest) -> None:
    assert queue.submit().wait(PATIENCE).state == "succeeded"
    worker = queue.process_ids().workers[0]
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    after = queue.submit()
    assert after.wait(PATIENCE).state == "succeeded"
    assert after.run.manifest()["facts"]["process"] != worker


def test_what_a_killed_worker_had_started_is_killed_too(queue: QueueUnderTest) -> None:
    job = queue.submit(fault="child")
    child = eventually(lambda: (job.run.folder / "child").exists() and (job.run.folder / "child").read_text())
    os.kill(queue.worker_at(job), signal.SIGKILL)
    assert job.wait(PATIENCE, check=False).state == "failed"
    eventually(lambda: not is_alive(int(child)))


def test_a_crash_below_python_is_named_and_leaves_its_traceback_in_the_log(queue: QueueUnderTest) -> None:
    job = queue.submit(fault="crash")
    status = job.wait(PATIENCE, check=False)
    assert status.state == "failed" and status.error is not None
    assert status.error.startswith("worker died (signal 11, SIGSEGV)")
    assert "Segmentation fault" in job.run.log_tail() and "stages_for_tests.py" in job.run.log_tail()
    assert queue.submit().wait(PATIENCE).state == "succeeded"


def test_a_worker_that_cannot_even_start_fails_the_run(queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    shadow = queue.runs_dir.parent / "shadow"
    shadow.mkdir()
    (shadow / "queue.py").write_text("raise RuntimeError('a broken installation')")
    monkeypatch.setenv("PYTHONPATH", f"{shadow}{os.pathsep}{os.environ['PYTHONPATH']}")
    status = queue.submit().wait(PATIENCE, check=False)
    assert status.error is not None and status.error.startswith("worker died (exit code 1). See ")
    assert "a broken installation" in (queue.runs_dir / ".worker" / "worker.log").read_text()


def test_a_worker_that_cannot_load_torch_names_the_log_that_says_so(
    queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    shadow = queue.runs_dir.parent / "shadow"
    shadow.mkdir()
    (shadow / "torch.py").write_text("import os; os.write(2, b'a broken library\\n'); os._exit(2)")
    monkeypatch.setenv("PYTHONPATH", f"{shadow}{os.pathsep}{os.environ['PYTHONPATH']}")
    monkeypatch.setenv("WANAVATAR_DEVICE", "auto")
    job = queue.submit()
    status = job.wait(PATIENCE, check=False)
    assert status.error is not None and status.error.startswith("worker died (exit code 2). See log.txt")
    assert job.run.log_tail() == "a broken library"


@pytest.mark.parametrize("victims", ["supervisor", "worker and supervisor"])
def test_a_killed_supervisor_is_replaced_and_the_queue_resumes_unwatched(queue: QueueUnderTest, victims: str) -> None:
    job, queued = queue.submit(fault="child"), queue.submit()
    child = int(eventually(lambda: (job.run.folder / "child").exists() and (job.run.folder / "child").read_text()))
    processes = {"worker": queue.worker_at(job), "supervisor": queue.process_ids().supervisor}
    for victim in victims.split(" and "):
        os.kill(processes[victim], signal.SIGKILL)
    eventually(lambda: state_on_disk(queued.run.folder) == "succeeded")
    assert state_on_disk(job.run.folder) == "failed"
    eventually(lambda: not any(is_alive(pid) for pid in (child, *processes.values())))
    assert queue.process_ids().supervisor != processes["supervisor"]


def test_a_supervisor_killed_while_idle_leaves_nothing_behind(queue: QueueUnderTest) -> None:
    assert queue.submit().wait(PATIENCE).state == "succeeded"
    pids = queue.process_ids()
    monitor = monitor_of(pids.supervisor)
    os.kill(pids.supervisor, signal.SIGKILL)
    eventually(lambda: not any(is_alive(pid) for pid in (pids.supervisor, monitor, *pids.workers)))
    assert queue.submit().wait(PATIENCE).state == "succeeded"


def test_the_monitor_passes_sigterm_on_to_the_supervisor(queue: QueueUnderTest) -> None:
    job, queued = queue.submit(hold_at=1), queue.submit()
    queue.worker_at(job, step=1)
    supervisor = queue.process_ids().supervisor
    monitor = monitor_of(supervisor)
    os.kill(monitor, signal.SIGTERM)
    eventually(lambda: not is_alive(supervisor) and not is_alive(monitor))
    assert (state_on_disk(job.run.folder), state_on_disk(queued.run.folder)) == ("failed", "queued")
    assert queued.wait(PATIENCE).state == "succeeded"


# a supervisor that cannot be imported, and one that dies in its first lines of work
BROKEN = {
    "argparse.py": "raise die()\n",
    "sitecustomize.py": (
        "import wanavatar_lab.runs.run\n"
        "def remove_stale_drafts(root): raise die()\n"
        "wanavatar_lab.runs.run.remove_stale_drafts = remove_stale_drafts\n"
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_supervisors_that_cannot_start_fail_the_run_after_a_few(
    queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    shadow = queue.runs_dir.parent / "shadow"
    shadow.mkdir()
    counting = (
        "def die():\n"
        f"    with open({str(shadow / 'died')!r}, 'a') as file: file.write('x')\n"
        "    return RuntimeError('a broken installation')\n"
    )
    (shadow / name).write_text(counting + BROKEN[name])
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{shadow}{os.pathsep}{os.environ['PYTHONPATH']}")
        job = queue.submit()
        queued = Job(Run.open(add_unwatched(queue)))
        status = job.wait(PATIENCE, check=False)
        assert status == job.run.status()
        assert (shadow / "died").read_text() == "x" * MOST_STARTS
        log = queue.runs_dir / ".worker" / "worker.log"
        assert status.state == "failed"
        assert status.error == (
            f"No supervisor could be started for the queue: {MOST_STARTS} in a row ended before they took a run. {log} "
            "ends with: RuntimeError: a broken installation. Correct that and resubmit."
        )
        assert job.run.manifest()["state"] == "failed"
        assert state_on_disk(queued.run.folder) == "queued", "only a run that is looked at gives up"
    assert queued.wait(PATIENCE).state == "succeeded"


def add_unwatched(queue: QueueUnderTest) -> str:
    """A queued run whose client was killed between queueing it and starting a supervisor; its id."""
    from tests.stages_for_tests import Relax

    run = Run.create(Relax(profile="pocket"), runs_dir=queue.runs_dir)
    run_queue = RunQueue(queue.runs_dir)
    with run_queue.locked():
        run_queue.add(run.id)
    return run.id


def test_a_link_without_a_target_does_not_stop_the_queue(queue: QueueUnderTest) -> None:
    queue.runs_dir.mkdir()
    (queue.runs_dir / ".new-x").symlink_to("nowhere")
    (queue.runs_dir / ".new-y").symlink_to(".new-y")
    (queue.runs_dir / "20260101-120000-ab12-relax").symlink_to("20260101-120000-ab12-relax")
    assert queue.submit().wait(PATIENCE).state == "succeeded"


def test_queued_runs_are_queued_again_after_the_queue_was_removed(queue: QueueUnderTest) -> None:
    first = queue.submit(hold_at=1)
    queue.worker_at(first, step=1)
    queued = [queue.submit() for _ in range(3)]
    unsubmitted = Run.create(first.run.request(), runs_dir=queue.runs_dir)
    shutil.rmtree(queue.runs_dir / ".worker")
    let_go(first)
    assert first.wait(PATIENCE).state == "succeeded"
    assert queued[2].wait(PATIENCE).state == "succeeded", "who looks at one queues all again, in their order"
    assert [state_on_disk(job.run.folder) for job in queued] == ["succeeded"] * 3
    status = attach(unsubmitted.id).status()
    assert (status.state, status.message) == ("queued", "not queued")


def test_damaged_runs_do_not_stop_the_queue(queue: QueueUnderTest) -> None:
    first = queue.submit(hold_at=1)
    queue.worker_at(first, step=1)
    supervisor = queue.process_ids().supervisor
    jobs = [queue.submit() for _ in range(4)]
    (jobs[0].run.folder / "status.json").unlink()
    (jobs[0].run.folder / "status.json").mkdir()
    (jobs[1].run.folder / "log.txt").unlink()
    (jobs[1].run.folder / "log.txt").mkdir()
    shutil.rmtree(jobs[2].run.folder)
    jobs[2].run.folder.touch()
    (jobs[3].run.folder / "cancel").mkdir()
    (queue.runs_dir / ".worker" / "queue" / "notes.txt").touch()
    last = queue.submit()
    let_go(first)
    assert last.wait(PATIENCE).state == "succeeded"
    assert queue.process_ids().supervisor == supervisor
    assert jobs[1].wait(PATIENCE, check=False).state == "failed"
    assert jobs[3].status().state == "cancelled"


def test_all_processes_killed_is_seen_by_the_next_look(queue: QueueUnderTest) -> None:
    job, queued = queue.submit(hold_at=1), queue.submit()
    worker = queue.worker_at(job, step=1)
    supervisor = queue.process_ids().supervisor
    processes = (monitor_of(supervisor), supervisor, worker)
    for process in processes:
        os.kill(process, signal.SIGKILL)
    eventually(lambda: not any(map(is_alive, processes)))
    assert state_on_disk(job.run.folder) == "running"
    assert [other.id for other in list_jobs()] == [queued.id, job.id]
    assert job.run.status().state == "failed"
    assert (job.run.status().error or "").startswith("worker died (its supervisor died with it")
    assert queued.run.status().state == "queued"
    assert queued.wait(PATIENCE).state == "succeeded", "waiting for a queued run resumes the queue"


def test_what_a_stage_started_dies_with_all_processes_at_once(queue: QueueUnderTest) -> None:
    job = queue.submit(fault="child")
    child = int(eventually(lambda: (job.run.folder / "child").exists() and (job.run.folder / "child").read_text()))
    worker, supervisor = queue.worker_at(job), queue.process_ids().supervisor
    monitor = monitor_of(supervisor)
    for process in (monitor, supervisor):
        os.kill(process, signal.SIGSTOP)  # so that neither of them sees another's death
    for process in (worker, supervisor, monitor):
        os.kill(process, signal.SIGKILL)
    eventually(lambda: not any(is_alive(pid) for pid in (child, worker, supervisor, monitor)))


def test_the_next_submit_sees_the_dead_and_takes_over(queue: QueueUnderTest) -> None:
    job = queue.submit(hold_at=1)
    worker = queue.worker_at(job, step=1)
    supervisor = queue.process_ids().supervisor
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: not is_alive(worker))
    after = queue.submit()
    eventually(lambda: state_on_disk(after.run.folder) == "succeeded")
    assert state_on_disk(job.run.folder) == "failed"


def test_the_worker_dies_with_its_supervisor(queue: QueueUnderTest) -> None:
    job = queue.submit(hold_at=1, fault="deaf")
    worker = queue.worker_at(job, step=1)
    os.kill(queue.process_ids().supervisor, signal.SIGKILL)
    eventually(lambda: not is_alive(worker))
    assert job.wait(PATIENCE, check=False).state == "failed"
    assert steps_done(job) == 1


def test_a_process_forked_by_a_stage_does_not_stand_for_its_dead_worker(queue: QueueUnderTest) -> None:
    job, queued = queue.submit(fault="fork"), queue.submit()
    child = int(eventually(lambda: (job.run.folder / "child").exists() and (job.run.folder / "child").read_text()))
    worker = queue.worker_at(job)
    os.kill(queue.process_ids().supervisor, signal.SIGKILL)
    eventually(lambda: not is_alive(worker))
    assert is_alive(child)
    try:
        assert job.wait(PATIENCE, check=False).state == "failed"
        assert queued.wait(PATIENCE).state == "succeeded"
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_dead_run_that_cannot_be_ended_does_not_hold_up_the_next(queue: QueueUnderTest) -> None:
    job, queued = queue.submit(hold_at=1), queue.submit()
    worker = queue.worker_at(job, step=1)
    os.kill(queue.process_ids().supervisor, signal.SIGKILL)
    eventually(lambda: not is_alive(worker))
    for name in ("manifest.json", ".reserve.manifest.json"):  # a folder where a file has to go
        (job.run.folder / name).unlink(missing_ok=True)
        (job.run.folder / name).mkdir()
    (job.run.folder / "manifest.json" / "in the way").touch()
    status = job.wait(PATIENCE, check=False)
    assert status.state == "failed" and "could not be written into its folder" in (status.error or "")
    assert queued.wait(PATIENCE).state == "succeeded"


def test_a_stopped_supervisor_fails_its_run_and_leaves_the_queue_for_the_next(queue: QueueUnderTest) -> None:
    job, queued = queue.submit(hold_at=1), queue.submit()
    worker = queue.worker_at(job, step=1)
    os.kill(queue.process_ids().supervisor, signal.SIGTERM)
    eventually(lambda: state_on_disk(job.run.folder) == "failed")
    eventually(lambda: not is_alive(worker))
    assert (job.status().error or "").startswith("worker died (its supervisor was stopped")
    assert queued.wait(PATIENCE).state == "succeeded"


def test_a_killed_run_in_a_clients_own_process_is_seen(queue: QueueUnderTest) -> None:
    client = queue.client("run_here(Relax(profile='pocket', hold_at=1))", stdout=subprocess.DEVNULL)
    (job,) = eventually(list_jobs)
    eventually(lambda: steps_done(job) == 1)
    assert job.status().state == "running"
    os.kill(client.pid, signal.SIGKILL)
    client.wait()
    status = attach(job.id).status()
    assert status.state == "failed" and (status.error or "").startswith("worker died (the process that executed it")


def test_ctrl_c_on_a_run_in_ones_own_process_cancels_it(queue: QueueUnderTest) -> None:
    client = queue.client("run_here(Relax(profile='pocket', hold_at=1))", stderr=subprocess.PIPE)
    (job,) = eventually(list_jobs)
    eventually(lambda: steps_done(job) == 1)
    os.kill(client.pid, signal.SIGINT)
    assert "KeyboardInterrupt" in client.communicate(timeout=PATIENCE)[1]
    assert job.run.status().state == "cancelled" and job.run.manifest()["state"] == "cancelled"


def test_a_run_whose_folder_is_removed_does_not_hold_up_the_next(queue: QueueUnderTest) -> None:
    job, after = queue.submit(hold_at=1), queue.submit()
    queue.worker_at(job, step=1)
    supervisor = queue.process_ids().supervisor
    moved = job.run.folder.rename(queue.runs_dir.parent / "moved away")
    (moved / "go").touch()
    job.run.folder.mkdir()
    (job.run.folder / "go").touch()
    assert after.wait(PATIENCE).state == "succeeded"
    assert queue.process_ids().supervisor == supervisor


def test_a_runs_folder_that_is_away_for_a_while_costs_no_run(queue: QueueUnderTest) -> None:
    first, second = queue.submit(hold_at=1, steps=4), queue.submit()
    worker, supervisor = queue.worker_at(first, step=1), queue.process_ids().supervisor
    root = queue.runs_dir.rename(queue.runs_dir.with_name("unmounted"))
    with pytest.raises(RunsAway):
        first.status()
    log = root / ".worker" / "worker.log"
    eventually(lambda: f"{queue.runs_dir} cannot be read now" in log.read_text())
    root.rename(queue.runs_dir)
    let_go(first)
    assert [job.wait(PATIENCE).state for job in (first, second)] == ["succeeded"] * 2
    assert queue.process_ids() == (supervisor, (worker,))


def test_a_runs_folder_that_does_not_come_back_ends_the_supervisor(
    queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANAVATAR_WORKER_IDLE_SECONDS", "1")
    queue.submit().wait(PATIENCE)
    processes = queue.process_ids()
    queue.runs_dir.rename(queue.runs_dir.with_name("unmounted"))
    eventually(lambda: not any(map(is_alive, (processes.supervisor, *processes.workers))))


def test_a_request_damaged_in_the_queue_fails_with_its_reason(queue: QueueUnderTest) -> None:
    first, damaged, last = queue.submit(hold_at=1), queue.submit(), queue.submit()
    queue.worker_at(first, step=1)
    (damaged.run.folder / "request.json").write_text("{")
    let_go(first)
    assert last.wait(PATIENCE).state == "succeeded"
    status = damaged.status()
    assert status.state == "failed" and "request.json cannot be read" in (status.error or "")
    assert "incomplete" in damaged.run.manifest()
