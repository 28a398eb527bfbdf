"""Runs on a real Ray cluster of several processes: each is made once, whatever is killed."""

import json
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
import yaml

from tests.queue_for_tests import REPOSITORY, QueueUnderTest, eventually, let_go, steps_done, use_queue
from tests.ray_for_tests import ClusterUnderTest, closed_port, ray_cluster, ray_head
from tests.stages_for_tests import Relax
from wanavatar_lab.errors import LabError
from wanavatar_lab.jobs import Job, run_here
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.runs import inputs
from wanavatar_lab.runs.finish import finish_run
from wanavatar_lab.runs.run import Run
from wanavatar_lab.settings import Settings, read_settings
from wanavatar_lab.worker import ray_driver
from wanavatar_lab.worker.ray_engine import at_most, fitting, in_words, need_of

PATIENCE = 120.0  # seconds; only a failing test waits so long


@pytest.fixture(scope="module")
def cluster() -> Iterator[ClusterUnderTest]:
    """Two nodes with two CPUs each."""
    with ray_cluster(2, 2) as made:
        yield made


@pytest.fixture(scope="module")
def sweep(cluster: ClusterUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QueueUnderTest]:
    """A queue whose runs go to the cluster; its actors stay warm between tests."""
    with pytest.MonkeyPatch.context() as patch:
        queue = QueueUnderTest(use_queue(patch, tmp_path_factory.mktemp("sweep") / "runs", idle_seconds=60))
        use_cluster(patch, cluster.address)
        yield queue
        queue.close()


def use_cluster(patch: pytest.MonkeyPatch, address: str) -> None:
    """The environment of clients that send their runs to a cluster."""
    patch.setenv("WANAVATAR_ENGINE", address)
    patch.setenv("WANAVATAR_DEVICE", "auto")
    patch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def worker_of(job: Job, step: int = 1) -> int:
    """The process that executes a run, once it has done a step."""
    eventually(lambda: steps_done(job) >= step, PATIENCE)
    log = str(job.run.folder / "log.txt")
    found = [each for each in psutil.process_iter(["cmdline"]) if "wanavatar_lab.worker.process" in _words(each)]
    (pid,) = [each.pid for each in found if any(file.path == log for file in each.open_files())]
    return int(pid)


def _words(process: psutil.Process) -> list[str]:
    return process.info["cmdline"] or []  # one that has ended has none


@pytest.mark.slow
def test_a_sweep_is_spread_over_the_cluster_and_each_run_is_made_once(sweep: QueueUnderTest) -> None:
    jobs = [sweep.submit(seed=seed, steps=2, hold_at=1 if seed < 4 else -1) for seed in range(12)]
    eventually(lambda: all(steps_done(job) == 1 for job in jobs[:4]), PATIENCE)  # all at the same time
    assert [job.status().state for job in jobs[4:]] == ["queued"] * 8
    assert [job.status().queue_place for job in jobs[4:]] == [*range(1, 9)]
    for job in jobs[:4]:
        let_go(job)
    assert [job.wait(PATIENCE, check=False).state for job in jobs] == ["succeeded"] * 12
    assert [steps_done(job) for job in jobs] == [2] * 12
    manifests = [job.run.manifest() for job in jobs]
    assert len({made["facts"]["process"] for made in manifests}) == 4
    assert {made["node"] for made in manifests} == {os.uname().nodename} and not any(
        "retried" in each for each in manifests
    )
    here = run_here(jobs[0].run.request().changed(hold_at=-1), runs_dir=sweep.runs_dir.parent / "here")
    assert (here.folder / "result.npy").read_bytes() == (jobs[0].run.folder / "result.npy").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("now", [False, True])
def test_a_run_on_the_cluster_is_cancelled(sweep: QueueUnderTest, now: bool) -> None:
    job = sweep.submit(steps=100, hold_at=1, fault="deaf" if now else "")
    worker = worker_of(job)
    job.cancel(now=now)
    assert job.wait(PATIENCE, check=False).state == "cancelled"
    assert steps_done(job) == 1
    after = sweep.submit()
    assert after.wait(PATIENCE).state == "succeeded"
    if now:
        assert not psutil.pid_exists(worker)


@pytest.mark.slow
def test_a_worker_that_crashes_fails_its_run_and_is_replaced(sweep: QueueUnderTest) -> None:
    job = sweep.submit(fault="crash")
    error = job.wait(PATIENCE, check=False).error or ""
    assert error.startswith(f"worker died (signal 11, SIGSEGV; on the node {os.uname().nodename}). See log.txt")
    assert "Segmentation fault" in job.run.log_tail()
    killed = sweep.submit(hold_at=1)
    os.kill(worker_of(killed), signal.SIGKILL)
    status = killed.wait(PATIENCE, check=False)
    assert (status.error or "").startswith("worker died (signal 9, SIGKILL") and status.retried is None
    assert sweep.submit().wait(PATIENCE).state == "succeeded"


@pytest.mark.slow
def test_a_run_whose_actor_is_lost_begins_again_once(sweep: QueueUnderTest) -> None:
    job = sweep.submit(steps=2, hold_at=1)
    psutil.Process(worker_of(job)).parent().kill()
    eventually(lambda: job.run.status().retried, PATIENCE)
    assert "It begins again" in job.run.log_tail()
    eventually(lambda: job.run.status().phase == "relax", PATIENCE)
    psutil.Process(worker_of(job)).parent().kill()
    status = job.wait(PATIENCE, check=False)
    assert status.state == "failed" and (status.error or "").startswith("The run was lost with its process on ")
    assert "Then again: " in (status.error or "") and "not begun a third time" in (status.error or "")
    assert job.run.manifest()["retried"] == status.retried


@pytest.mark.slow
def test_what_no_node_has_is_refused_with_what_there_is(sweep: QueueUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_GPUS", "3")
    error = sweep.submit().wait(PATIENCE, check=False).error or ""
    assert error.startswith(
        "No node of the Ray cluster has what this run needs, 3 CPUs, 9 GB; its nodes have: 2 CPUs, "
    )


@pytest.mark.slow
def test_folders_that_a_node_does_not_see_are_sent_and_fetched(
    cluster: ClusterUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the same path is another folder in every process that has another working folder, as actors have; the supervisor
    # works in the runs folder
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path / "runs")
    queue = QueueUnderTest(use_queue(monkeypatch, Path("/proc/self/cwd")))
    use_cluster(monkeypatch, cluster.address)
    try:
        first = queue.submit(seed=3)
        assert first.wait(PATIENCE).state == "succeeded"
        monkeypatch.setattr(inputs, "LARGEST_COPY", 100)  # so that the run has no copy of its input
        job = queue.submit(start=str(first.run.folder / "result.npy"), hold_at=2)
        eventually(lambda: job.run.status().phase == "relax", PATIENCE)
        eventually(lambda: "to standard output\n" in job.run.log_tail(), PATIENCE)
        assert not (job.run.folder / "steps.txt").exists()
        (there,) = Path(tempfile.gettempdir()).glob(f"wanavatar-lab-*/runs-*/{job.id}")
        (there / "go").touch()
        (made,) = job.wait(PATIENCE).artifacts
        eventually(lambda: not there.exists(), PATIENCE)  # after the last status
        assert {path.name for path in job.run.folder.iterdir()} == {
            *("request.json", "status.json", "log.txt", "manifest.json", "result.npy", "steps.txt", "go")
        }
        here = run_here(job.run.request().changed(hold_at=-1), runs_dir=tmp_path / "here")
        np.testing.assert_array_equal(np.load(made), np.load(here.folder / "result.npy"))
        manifest, expected = job.run.manifest(), first.id
        assert manifest["parents"] == [expected] and manifest["request"]["start"] == f"{expected}/result.npy"
        cancelled = queue.submit(hold_at=1)
        eventually(lambda: cancelled.run.status().phase == "relax", PATIENCE)
        cancelled.cancel()
        assert cancelled.wait(PATIENCE, check=False).state == "cancelled"
        crashed = queue.submit(fault="crash")
        assert "SIGSEGV" in (crashed.wait(PATIENCE, check=False).error or "")
        assert "Segmentation fault" in crashed.run.log_tail()
        damaged = queue.submit(hold_at=1)
        eventually(lambda: damaged.run.status().phase == "relax", PATIENCE)
        (there,) = Path(tempfile.gettempdir()).glob(f"wanavatar-lab-*/runs-*/{damaged.id}")
        shutil.rmtree(there)
        there.touch()  # so that the cancellation cannot be written there
        damaged.cancel()
        error = damaged.wait(PATIENCE, check=False).error or ""
        expected = f"The node {os.uname().nodename} cannot work with the run's files in {there.parent} ("
        assert error.startswith(expected) and "Make room there, or correct the permissions" in error
    finally:
        queue.close()


@contextmanager
def driver_here(
    tmp_path: Path, patch: pytest.MonkeyPatch, nodes: ClusterUnderTest
) -> Iterator[tuple[ray_driver.Cluster, dict[str, int], dict[str, str]]]:
    """A driver in this process, whose runs folder no node sees; and what an actor of the test stage takes."""
    import ray

    (tmp_path / "runs" / ".worker").mkdir(parents=True)
    patch.chdir(tmp_path / "runs")  # as above: actors have the folder in which the cluster was started
    runs_dir = use_queue(patch, Path("/proc/self/cwd"))
    use_cluster(patch, nodes.address)
    # this process has imported Ray before `ray_cluster` set the environment
    patch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)
    settings = read_settings()
    wanted = {**settings.for_worker(), "WANAVATAR_EXTRA_STAGES": os.environ["WANAVATAR_EXTRA_STAGES"]}
    cluster = ray_driver.Cluster(runs_dir, nodes.address)
    cluster._connect()
    try:
        yield cluster, need_of(settings, PROFILES["pocket"]), {**wanted, "WANAVATAR_DEVICE": "cpu"}
    finally:
        ray.shutdown()


@pytest.mark.slow
def test_a_node_that_is_lost_while_files_are_fetched_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a file was read there and is not here yet: the run begins again on the other node."""
    import ray

    ours, theirs = socket.socketpair()
    with ray_cluster(0, 1, 1) as nodes, driver_here(tmp_path, monkeypatch, nodes) as (cluster, need, wanted):
        run = Run.create(Relax(profile="pocket", hold_at=2))
        taken, call = list[ray_driver.Actor](), ray_driver.Actor.call

        def call_and_lose(self: ray_driver.Actor, method: str, *values: Any) -> Any:
            if method == "give":
                folder = Path(self.folder) / run.id
                with open(folder / "large.bin", "wb") as file:
                    file.truncate(2**20)  # more than Ray returns inline: it stays in the node's object store
                (folder / "go").touch()
                taken.append(self)
            if method != "read" or values[1] != "large.bin" or len(taken) > 1:
                return call(self, method, *values)
            answer = self.handle.read.remote(*values)
            assert ray.wait([answer], fetch_local=False, timeout=PATIENCE)[0]
            held = str(Path(self.folder) / ".in-use")
            (node,) = (
                node
                for node in nodes.nodes
                if any(held in {file.path for file in each.open_files()} for each in nodes.processes(node))
            )
            nodes.kill(node)
            return ray.get(answer)

        monkeypatch.setattr(ray_driver.Actor, "call", call_and_lose)
        with ours, theirs:
            assert ray_driver.PlaceThread(cluster, theirs)._execute(run.id, need, wanted) == "done"
        status = run.status()
    assert (status.state, status.error, len(taken)) == ("succeeded", None, 2)
    assert "The run was lost" in (status.retried or "") and (run.folder / "large.bin").stat().st_size == 2**20


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_is_sent_stays_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ray_cluster(1) as nodes, driver_here(tmp_path, monkeypatch, nodes) as (cluster, need, wanted):
        run = Run.create(Relax(profile="pocket", hold_at=2))
        called, call = list[str](), ray_driver.Actor.call

        def call_and_give_up(self: ray_driver.Actor, method: str, *values: Any) -> Any:
            called.append(method)
            if method == "write" and values[1] == "request.json":  # the supervisor has waited for long
                finish_run(run, "cancelled")
                ours.close()
            return call(self, method, *values)

        monkeypatch.setattr(ray_driver.Actor, "call", call_and_give_up)
        with theirs:
            assert ray_driver.PlaceThread(cluster, theirs)._execute(run.id, need, wanted) == "killed"
        assert run.status().state == "cancelled"
        assert "give" not in called and called[-1] == "drop", "nothing was begun, and the node keeps nothing"


@pytest.mark.slow
def test_another_release_of_ray_is_one_clear_error(
    cluster: ClusterUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = QueueUnderTest(use_queue(monkeypatch, tmp_path / "runs"))
    use_cluster(monkeypatch, cluster.address)
    (tmp_path / "sitecustomize.py").write_text("import ray\nray.__version__ = '2.0.0'\n")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
    try:
        error = queue.submit().wait(PATIENCE, check=False).error or ""
    finally:
        queue.close()
    assert error.startswith(f"The Ray cluster at {cluster.address} does not accept this process: Version mismatch")
    assert "Ray: 2.0.0" in error and "All machines need the same release of Ray and of Python," in error


@pytest.mark.slow
def test_a_killed_supervisor_ends_its_run_on_the_cluster_and_the_next_one_is_made(sweep: QueueUnderTest) -> None:
    job, queued = sweep.submit(hold_at=1), sweep.submit(hold_at=1)
    workers = [worker_of(job), worker_of(queued)]
    os.kill(sweep.process_ids().supervisor, signal.SIGKILL)
    eventually(lambda: not any(psutil.pid_exists(worker) for worker in workers), PATIENCE)
    assert [each.wait(PATIENCE, check=False).state for each in (job, queued)] == ["failed"] * 2
    assert sweep.submit().wait(PATIENCE).state == "succeeded"


@pytest.mark.slow
def test_a_node_that_is_lost_in_a_sweep_loses_nothing(cluster: ClusterUnderTest, sweep: QueueUnderTest) -> None:
    jobs = [sweep.submit(seed=seed, steps=3, hold_at=2 if seed < 4 else -1) for seed in range(8)]
    workers = [worker_of(job, 2) for job in jobs[:4]]
    victim = cluster.nodes[-1]  # the first is the head, without which there is no cluster
    lost = [job for job, worker in zip(jobs, workers, strict=False) if cluster.node_of(worker) is victim]
    stay = [job for job in jobs[:4] if job not in lost]
    assert len(lost) == len(stay) == 2
    cluster.kill(victim)
    eventually(lambda: all(job.run.status().retried for job in lost), PATIENCE)
    for job in stay:
        let_go(job)
    eventually(lambda: all(steps_done(job) == 2 for job in lost), PATIENCE)
    for job in lost:
        let_go(job)
    assert [job.wait(PATIENCE, check=False).state for job in jobs] == ["succeeded"] * 8
    assert [steps_done(job) for job in jobs] == [3] * 8
    assert [job.status().retried is not None for job in jobs] == [job in lost for job in jobs]
    for job in lost:
        assert "The run was lost" in job.run.manifest()["retried"] and "It begins again" in job.run.log_tail()


@pytest.mark.parametrize("fault", ["closed", "missing"])
def test_a_cluster_that_is_not_there_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    queue = QueueUnderTest(use_queue(monkeypatch, tmp_path / "runs"))
    use_cluster(monkeypatch, f"127.0.0.1:{closed_port()}")
    (tmp_path / "shadow").mkdir()
    (tmp_path / "shadow" / "ray.py").write_text("raise ImportError('No module named ray')")
    if fault == "missing":
        monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'shadow'}{os.pathsep}{os.environ['PYTHONPATH']}")
    try:
        jobs = [queue.submit(), queue.submit()]
        errors = [job.wait(PATIENCE, check=False).error or "" for job in jobs]
        expected = {
            "closed": f"The Ray cluster at {os.environ['WANAVATAR_ENGINE']} cannot be reached (",
            "missing": "WANAVATAR_ENGINE asks for Ray, and it cannot be imported (No module named ray). Install it: ",
        }[fault]
        assert [error[: len(expected)] for error in errors] == [expected] * 2
        monkeypatch.setenv("WANAVATAR_ENGINE", "local")
        assert queue.submit().wait(PATIENCE).state == "succeeded", "the same queue runs on this machine too"
    finally:
        queue.close()


@pytest.mark.slow
def test_a_cluster_with_a_token_executes_only_what_comes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    for name, token in (("right", "a" * 32), ("wrong", "b" * 32)):
        (tmp_path / name).write_text(token)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "right"))
    with ray_head() as address:
        for name in ("right", "wrong"):
            monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / name))
            queue = QueueUnderTest(use_queue(monkeypatch, tmp_path / f"runs of the {name}"))
            use_cluster(monkeypatch, address)
            try:
                status = queue.submit().wait(PATIENCE, check=False)
            finally:
                queue.close()
            assert status.state == ("succeeded" if name == "right" else "failed"), status.error
        assert "token" in (status.error or "") and "RAY_AUTH_MODE" in (status.error or "")


def test_no_cluster_on_this_machine_is_not_taken_for_another_release(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoCluster:  # one that runs here would be found by its processes
        def init(self, **_: Any) -> None:
            raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(ray_driver, "ray", NoCluster(), raising=False)
    monkeypatch.setattr(ray_driver, "_MISSING", "")
    with pytest.raises(LabError, match=r"^The Ray cluster of this machine cannot be reached: none is running here\."):
        ray_driver.connect("auto")


def test_a_cluster_that_is_lost_after_it_was_reached_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the client server, where Ray does not end the process that loses it."""
    node = {"CPU": 2.0, "GPU": 0.0, "memory": 4e9}
    found = iter([[{"Alive": True, "Resources": node}]])

    class RayClient:
        def nodes(self) -> list[dict[str, Any]]:
            for nodes in found:
                return nodes
            raise ConnectionError("Client is shutting down.")

    monkeypatch.setattr(ray_driver, "ray", RayClient(), raising=False)
    monkeypatch.setattr(ray_driver, "connect", lambda address: None)
    monkeypatch.setattr(ray_driver, "_COUNT_SECONDS", 0.0)
    (tmp_path / ".worker").mkdir()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ray_driver.Cluster(tmp_path, "ray://head:10001").watch(theirs)
        first, last = map(json.loads, ours.recv(65536).splitlines())
    assert first == {"nodes": [node]}
    assert last["failed"].startswith("The Ray cluster at ray://head:10001 is lost (ConnectionError: Client is shutting")


@pytest.mark.parametrize("engine", ["local", "ray", "ray://head:10001", "10.0.0.1:6379", "[::1]:6379", "ray://[::1]:1"])
def test_engines_that_can_be_named(engine: str) -> None:
    assert read_settings({"WANAVATAR_ENGINE": engine}).engine == engine


@pytest.mark.parametrize("engine", ["slurm", "ray:", "ray://", "http://head:1", "head", "head:", "ray://a b:1"])
def test_engines_that_are_refused(engine: str) -> None:
    with pytest.raises(LabError, match="WANAVATAR_ENGINE is"):
        read_settings({"WANAVATAR_ENGINE": engine})


@pytest.mark.parametrize(
    ("device", "gpus", "profile", "need"),
    [
        ("auto", "1", "full", (1, 1, 80)),
        ("auto", "auto", "full", (1, 1, 80)),
        ("cuda:3", "4", "full", (4, 4, 320)),
        ("cpu", "1", "full", (1, 0, 80)),
        ("auto", "2", "pocket", (2, 0, 6)),
        ("cuda", "1", "pocket", (1, 1, 3)),
    ],
)
def test_what_an_actor_takes(device: str, gpus: str, profile: str, need: tuple[int, int, int]) -> None:
    cpus, gpus_, gigabytes = need
    expected = {"CPU": cpus, "GPU": gpus_, "memory": gigabytes * 10**9}
    assert need_of(Settings(device=device, gpus=gpus), PROFILES[profile]) == expected


def test_how_many_actors_fit_on_a_node() -> None:
    node = {"CPU": 32.0, "GPU": 8.0, "memory": 500e9}
    wants = [{"CPU": number, "GPU": number, "memory": 10**9} for number in (1, 2, 3, 8, 9)]
    assert [fitting(want, node) for want in wants] == [8, 4, 2, 1, 0]
    full = {"CPU": 1, "GPU": 1, "memory": 80 * 10**9}
    assert fitting(full, node) == 6, "as main memory has room for their models"
    small = {"CPU": 8.0, "GPU": 2.0, "memory": 60e9}
    assert fitting(full, small) == 0 and fitting(at_most(full, [small]), small) == 1, "one is tried all the same"
    assert at_most(full, [small, node, {"CPU": 8.0, "GPU": 0.0, "memory": 900e9}]) == full
    assert in_words(full) == "1 CPU, 1 GPU, 80 GB" and in_words(small | {"GPU": 0.0}) == "8 CPUs, 60 GB"


@pytest.mark.slow  # imports Ray
def test_the_example_of_a_cluster_is_one_that_ray_takes() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    example = yaml.safe_load((REPOSITORY / "docs" / "cluster.yaml").read_text())
    validate_config(prepare_config(example))  # as `ray up` does first
    assert example["min_workers"] == example["max_workers"] == len(example["provider"]["worker_ips"])
