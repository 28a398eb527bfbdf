"""Submit, queue, cancel, re-attach: with a real supervisor and a real worker."""

import asyncio
import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.queue_for_tests import (  # noqa: F401  fixtures
    PATIENCE,
    REPOSITORY,
    QueueUnderTest,
    eventually,
    is_alive,
    let_go,
    queue_fixture,
    queue_settings_fixture,
    shared_queue_fixture,
    steps_done,
)
from wanavatar_lab.errors import LabError, RequestError, RunError
from wanavatar_lab.jobs import Job, attach, list_jobs, list_queue, submit
from wanavatar_lab.runs.run import list_runs


def test_a_job_runs_elsewhere_and_is_found_again(queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    job = queue.submit(steps=5, seed=3)
    status = job.wait(PATIENCE)
    assert (status.state, status.step, status.steps, status.phase) == ("succeeded", 5, 5, "relax")
    assert status.submitted_at and status.started_at and status.finished_at
    assert status.submitted_at <= status.started_at <= status.finished_at
    manifest = job.run.manifest()
    assert manifest["facts"]["process"] == queue.process_ids().workers[0] != os.getpid()
    assert "to standard output\nfrom below Python" in job.run.log_tail()
    assert attach(job.id).artifacts() == job.artifacts() == status.artifacts
    assert [other.id for other in list_jobs()] == [job.id]
    job.cancel()
    assert job.status() == status, "what has ended stays as it is"


def test_the_last_models_stay_loaded_and_a_failed_run_does_no_harm(shared_queue: QueueUnderTest) -> None:
    faults = ["", "bug", "", "exit", "gpu memory", "", "gpu broken", ""]
    jobs = [shared_queue.submit(fault=fault) for fault in faults]
    states = [job.wait(PATIENCE, check=False).state for job in jobs]
    assert states == ["failed" if fault else "succeeded" for fault in faults]
    facts = [job.run.manifest()["facts"] for job in jobs]
    processes = [fact["process"] for fact in facts]
    loads = [fact["loaded_at"] for fact in facts]
    assert len(set(processes[:7])) == 1, "one worker outlives every bad run"
    assert len(set(loads[:5])) == 1, "models are loaded once"
    assert loads[5] != loads[4], "and anew after the GPU's memory ran out"
    assert processes[7] != processes[6], "a broken GPU context takes a new process"


def test_a_run_is_executed_with_the_settings_it_was_submitted_with(
    shared_queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [shared_queue.submit(hold_at=1)]
    for seconds in ("7.5", "7.5"):
        monkeypatch.setenv("WANAVATAR_MAX_AUDIO_SECONDS", seconds)
        jobs.append(shared_queue.submit())
    monkeypatch.setenv("WANAVATAR_CANCEL_GRACE_SECONDS", "7")
    jobs.append(shared_queue.submit())
    let_go(jobs[0])
    assert [job.wait(PATIENCE).state for job in jobs] == ["succeeded"] * 4
    facts = [job.run.manifest()["facts"] for job in jobs]
    assert [fact["max_audio_seconds"] for fact in facts] == [3600.0, 7.5, 7.5, 7.5]
    assert facts[0]["process"] != facts[1]["process"] == facts[2]["process"], "a worker with other settings is replaced"
    assert facts[3]["process"] == facts[2]["process"], "not for one that it does not read"


def test_another_profile_loads_other_models(shared_queue: QueueUnderTest) -> None:
    from tests.stages_for_tests import Relax

    jobs = [submit(Relax(profile=profile)) for profile in ("pocket", "full", "full", "pocket")]
    assert all(job.wait(PATIENCE).state == "succeeded" for job in jobs)
    facts = [job.run.manifest()["facts"] for job in jobs]
    assert [fact["profile"] for fact in facts] == ["pocket", "full", "full", "pocket"]
    assert len({fact["loaded_at"] for fact in facts}) == 3
    assert len({fact["process"] for fact in facts}) == 1


def test_two_clients_are_served_in_order_and_see_their_places(shared_queue: QueueUnderTest) -> None:
    first = shared_queue.submit(hold_at=1)
    shared_queue.worker_at(first, step=1)
    code = "print(submit(Relax(profile='pocket')).id, flush=True)"
    ids = [first.id]
    jobs = []
    for _ in range(2):
        jobs.append(shared_queue.submit())
        client = shared_queue.client(code, stdout=subprocess.PIPE)
        jobs.append(attach(client.communicate(timeout=PATIENCE)[0].strip()))
    ids += [job.id for job in jobs]
    assert first.status().queue_place is None
    assert [job.status().queue_place for job in jobs] == [1, 2, 3, 4]
    assert [job.status().message for job in jobs[:2]] == ["next", "1 run ahead"]
    seen = shared_queue.client(f"print(attach('{jobs[3].id}').status().queue_place)", stdout=subprocess.PIPE)
    assert seen.communicate(timeout=PATIENCE)[0].strip() == "4", "another client sees the same place"
    jobs[1].cancel()
    assert [job.status().queue_place for job in jobs] == [1, None, 2, 3]
    assert jobs[1].status().state == "cancelled" and jobs[1].run.manifest()["state"] == "cancelled"
    let_go(first)
    del jobs[1]
    assert all(job.wait(PATIENCE).state == "succeeded" for job in [first, *jobs])
    starts = [job.status().started_at for job in [first, *jobs]]
    assert starts == sorted(starts, key=lambda start: start or 0.0)


def test_many_clients_at_once_get_one_supervisor_and_lose_nothing(queue: QueueUnderTest) -> None:
    code = "print(*[submit(Relax(profile='pocket', steps=1)).id for _ in range(4)])"
    clients = [queue.client(code, stdout=subprocess.PIPE) for _ in range(3)]
    ids = [run_id for client in clients for run_id in client.communicate(timeout=2 * PATIENCE)[0].split()]
    assert len(set(ids)) == 12
    assert {attach(run_id).wait(PATIENCE).state for run_id in ids} == {"succeeded"}
    assert len({attach(run_id).run.manifest()["facts"]["process"] for run_id in ids}) == 1
    assert sorted(run.id for run in list_runs()) == sorted(ids)


def test_cancel_takes_effect_within_one_step(shared_queue: QueueUnderTest) -> None:
    job, after = shared_queue.submit(steps=200, step_seconds=0.1), shared_queue.submit()
    worker = shared_queue.worker_at(job, step=3)
    job.cancel()
    done = steps_done(job)
    status = job.wait(PATIENCE, check=False)
    assert status.state == "cancelled" and status.error is None
    assert 3 <= done <= steps_done(job) <= done + 1
    assert status.step is not None and status.step <= done + 1
    assert not (job.run.folder / "result.npy").exists()
    assert job.run.manifest()["state"] == "cancelled"
    assert after.wait(PATIENCE).state == "succeeded"
    assert shared_queue.process_ids().workers[0] == worker, "the worker and its models stay"


def test_cancel_of_a_queued_run_is_at_once(shared_queue: QueueUnderTest) -> None:
    running = shared_queue.submit(hold_at=1)
    shared_queue.worker_at(running, step=1)
    queued = shared_queue.submit()
    queued.cancel()
    assert queued.run.status().state == "cancelled", "no supervisor had to look at it"
    assert running.status().state == "running"
    let_go(running)
    assert running.wait(PATIENCE).state == "succeeded"
    assert steps_done(queued) == 0


def test_cancel_while_models_load_waits_for_them_and_no_longer(
    queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RELAX_LOADS_AFTER", str(tmp_path / "loaded"))
    monkeypatch.setenv("WANAVATAR_CANCEL_GRACE_SECONDS", "0.2")
    job = queue.submit()
    eventually(lambda: job.status().phase == "load")
    worker = queue.process_ids().workers[0]
    job.cancel()
    assert job.wait(0.6).state == "running", "the grace does not run while models load"
    (tmp_path / "loaded").touch()
    assert job.wait(PATIENCE, check=False).state == "cancelled"
    assert steps_done(job) == 0
    after = queue.submit()
    assert after.wait(PATIENCE).state == "succeeded"
    assert after.run.manifest()["facts"]["process"] == worker, "the loaded models were not thrown away"


def test_a_stage_that_never_looks_is_killed_after_the_grace(
    queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANAVATAR_CANCEL_GRACE_SECONDS", "0.3")
    deaf = queue.submit(steps=2, hold_at=1, fault="deaf")
    worker = queue.worker_at(deaf, step=1)
    after = queue.submit()
    deaf.cancel()
    status = deaf.wait(PATIENCE, check=False)
    assert status.state == "cancelled" and status.error is None
    assert not is_alive(worker)
    assert after.wait(PATIENCE).state == "succeeded"
    assert after.run.manifest()["facts"]["process"] != worker


def test_cancel_now_does_not_wait(shared_queue: QueueUnderTest) -> None:
    deaf = shared_queue.submit(steps=2, hold_at=1, fault="deaf")
    worker = shared_queue.worker_at(deaf, step=1)
    deaf.cancel(now=True)
    assert deaf.wait(PATIENCE, check=False).state == "cancelled"
    assert not is_alive(worker)


def test_a_client_killed_at_work_loses_nothing(shared_queue: QueueUnderTest) -> None:
    code = "job = submit(Relax(profile='pocket', hold_at=2)); print(job.id, flush=True); job.wait()"
    client = shared_queue.client(code, stdout=subprocess.PIPE)
    assert client.stdout is not None
    job = attach(client.stdout.readline().strip())
    shared_queue.worker_at(job, step=2)
    os.kill(client.pid, signal.SIGKILL)
    client.communicate()
    assert job.status().state == "running"
    let_go(job)
    assert job.wait(PATIENCE).state == "succeeded"


def test_a_wait_that_is_cancelled_cancels_the_run_where_that_is_asked_for(shared_queue: QueueUnderTest) -> None:
    async def stopped(job: Job, cancel: bool) -> None:
        wait = asyncio.create_task(job.result(cancel=cancel))
        await asyncio.sleep(0)  # it waits by now
        wait.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wait

    going, ending = shared_queue.submit(hold_at=1), shared_queue.submit(hold_at=1)
    for job in (going, ending):
        asyncio.run(stopped(job, job == ending))
    assert ending.status().state == "cancelled"  # at once, since it was queued
    let_go(going)
    assert going.wait(PATIENCE).state == "succeeded"


def test_results_are_awaited_without_blocking(shared_queue: QueueUnderTest) -> None:
    async def both() -> list[str]:
        good, bad = shared_queue.submit(steps=3), shared_queue.submit(fault="weights")
        artifacts = await good.result()
        with pytest.raises(RunError, match=r"failed: The weights of relax are missing"):
            await bad.result()
        return [artifact.file for artifact in artifacts]

    async def beside() -> int:
        beats = 0
        work = asyncio.create_task(both())
        while not work.done():
            beats += 1
            await asyncio.sleep(0.01)
        assert await work == ["result.npy"]
        return beats

    assert asyncio.run(beside()) > 5


def test_an_interrupted_submission_leaves_no_run_that_nobody_waits_for(
    queue_settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.stages_for_tests import Relax

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("wanavatar_lab.jobs.start_supervisor", interrupted)
    with pytest.raises(KeyboardInterrupt):
        submit(Relax(profile="pocket"))
    (job,) = list_jobs()
    assert job.run.status().state == "cancelled" and list_queue() == []


def test_a_missing_input_is_refused_before_there_is_a_run(queue_settings: Path) -> None:
    from tests.stages_for_tests import Relax

    with pytest.raises(RequestError, match=r"'nowhere\.npy' does not exist"):
        submit(Relax(start="nowhere.npy"))
    assert not queue_settings.exists()


def test_a_folder_of_runs_that_is_none_is_named(queue_settings: Path) -> None:
    from tests.stages_for_tests import Relax

    queue_settings.symlink_to(queue_settings.parent / "not mounted")
    with pytest.raises(
        LabError, match=r"runs is a link that leads nowhere\. Mount its disk, or set WANAVATAR_RUNS_DIR"
    ):
        submit(Relax())
    queue_settings.unlink()
    queue_settings.write_text("a file")
    with pytest.raises(LabError, match=r"runs is no folder\. Move it away, or set WANAVATAR_RUNS_DIR to a folder"):
        submit(Relax())


def test_inputs_are_found_from_the_clients_folder(
    shared_queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = shared_queue.submit(seed=1)
    first.wait(PATIENCE)
    first.run.path(first.artifacts()[0]).rename(tmp_path / "mine.npy")
    monkeypatch.chdir(tmp_path)
    job = shared_queue.submit(start="mine.npy")
    assert job.wait(PATIENCE).state == "succeeded"
    assert job.run.manifest()["inputs"]["start"]["name"] == "mine.npy"


def test_workers_start_after_the_folder_is_removed_from_which_the_supervisor_was_started(
    queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mine.toml").write_text("max_audio_seconds = 50.0\n")
    (tmp_path / "short").mkdir()
    with monkeypatch.context() as there:
        there.chdir(tmp_path / "short")
        there.setenv("WANAVATAR_SETTINGS", "../mine.toml")
        there.setenv("PYTHONPATH", os.path.relpath(REPOSITORY))
        first = queue.submit()
        assert first.wait(PATIENCE).state == "succeeded"
        assert first.run.manifest()["facts"]["max_audio_seconds"] == 50.0
    (tmp_path / "short").rmdir()
    monkeypatch.setenv("WANAVATAR_DEVICE", "auto")  # another worker, which loads torch to choose
    second = queue.submit()
    assert second.wait(5 * PATIENCE).state == "succeeded"
    assert second.run.manifest()["facts"]["process"] != first.run.manifest()["facts"]["process"]


def test_an_idle_supervisor_leaves_with_its_worker_and_a_later_run_gets_new_ones(
    queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANAVATAR_WORKER_IDLE_SECONDS", "0.3")
    queue.submit().wait(PATIENCE)
    pids = queue.process_ids()
    eventually(lambda: not is_alive(pids.supervisor) and not any(map(is_alive, pids.workers)))
    again = queue.submit()
    assert again.wait(PATIENCE).state == "succeeded"
    assert again.run.manifest()["facts"]["process"] not in pids.workers


def test_progress_counts_up_and_says_how_long_it_takes(shared_queue: QueueUnderTest) -> None:
    job = shared_queue.submit(steps=12, step_seconds=0.11)
    seen = []
    while not (status := job.status()).ended:
        seen.append(status)
    running = [status for status in seen if status.phase == "relax"]
    fractions = [status.fraction for status in running]
    assert fractions == sorted(fractions) and fractions[-1] < 1.0
    assert len({status.step for status in running}) >= 8
    etas = [status.eta_seconds for status in running if status.eta_seconds is not None]
    assert etas and max(etas) < 30 and etas[-1] < etas[0]
    assert json.loads((job.run.folder / "status.json").read_text())["fraction"] == 1.0
