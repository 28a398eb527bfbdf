"""A run's folder on a node that shares no disk, with the actor's class as a plain object: no Ray is needed for it."""

import tempfile
from pathlib import Path

import pytest

from tests.stages_for_tests import Relax
from wanavatar_lab.requests.custom_stages import register_extra_stages
from wanavatar_lab.runs.finish import finish_run
from wanavatar_lab.runs.run import PREVIEW, Run
from wanavatar_lab.runs.status import Artifact, Status
from wanavatar_lab.worker import ray_folder, ray_node
from wanavatar_lab.worker.ray_folder import RemoteFolder, clear
from wanavatar_lab.worker.ray_node import NodeWorker


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that is executed."""
    monkeypatch.setenv("WANAVATAR_EXTRA_STAGES", "relax=tests.stages_for_tests")
    register_extra_stages()
    made = Run.create(Relax(profile="pocket"), runs_dir=tmp_path / "runs")
    made.write_status(made.status().started())
    return made


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NodeWorker:
    """A node that does not see the runs folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return NodeWorker({}, str(tmp_path / "runs"), ".worker/ray-none", 1, 0.0)


def remote(run: Run, node: NodeWorker) -> tuple[RemoteFolder, Run]:
    """The folder as the dispatcher has it, and the run there."""
    place = node.hello()["folder"]
    return RemoteFolder(run, place, lambda name, *words: getattr(node, name)(run.id, *words)), Run(Path(place) / run.id)


def test_what_is_shown_of_a_run_follows_it(run: Run, node: NodeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_folder, "_PART", 7)  # bytes, so that everything goes in many parts
    folder, there = remote(run, node)
    folder.send()
    assert there.request() == run.request() and there.status() == run.status()
    (there.folder / PREVIEW).write_bytes(b"a picture of more than seven bytes")
    with open(there.folder / "log.txt", "a") as log:
        log.write(f"read {there.folder}/a.png\nand {str(there.folder)[:9]}")
    there.write_status(there.status().model_copy(update={"message": f"at {there.folder}", "fraction": 0.5}))
    folder.follow(node._watched(run.id))
    assert (run.folder / PREVIEW).read_bytes() == b"a picture of more than seven bytes"
    assert (run.folder / "log.txt").read_text() == f"read {run.folder}/a.png\n", "a line is cut by no part"
    assert (run.status().message, run.status().fraction) == (f"at {run.folder}", 0.5)
    run.request_cancel()
    folder.follow(node._watched(run.id))
    assert there.cancel_requested()


def test_the_last_status_comes_after_all_else(run: Run, node: NodeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, there = remote(run, node)
    folder.send()
    (there.folder / "parts").mkdir()
    (there.folder / "parts" / "one.npy").write_bytes(b"one")
    (there.folder / ".half.npy").write_bytes(b"half")
    finish_run(there, "succeeded", artifacts=[Artifact(kind="numbers", path="parts/one.npy")])
    folder.follow(node._watched(run.id))
    assert run.status().state == "running" and not (run.folder / "manifest.json").exists()
    folder.finish()
    (made,) = run.status().artifacts
    assert Path(made).read_bytes() == b"one" and run.manifest()["state"] == "succeeded"
    assert not [path for path in run.folder.iterdir() if path.name.startswith(".")] and not there.folder.exists()


def test_what_a_dead_worker_had_finished_of_a_video_is_brought(run: Run, node: NodeWorker) -> None:
    folder, there = remote(run, node)
    folder.send()
    (there.folder / ".talking.partial.mp4").write_bytes(b"video")
    (there.folder / ".half.npy").write_bytes(b"half")
    folder.finish()
    assert run.status().state == "running", "how it ended is said by who saw it"
    assert (run.folder / ".talking.partial.mp4").read_bytes() == b"video" and not (run.folder / ".half.npy").exists()


def test_a_run_that_begins_again_has_nothing_of_the_first_time(run: Run) -> None:
    before = {path.name for path in run.folder.iterdir()}
    run.request_cancel()
    for name in (PREVIEW, "half.npy", ".talking.partial.mp4", "manifest.json"):
        (run.folder / name).write_bytes(b"x")
    clear(run.folder)
    assert {path.name for path in run.folder.iterdir()} == before | {"cancel"}
    assert run.status() == Status.model_validate_json((run.folder / "status.json").read_bytes())


def test_what_a_killed_actor_left_on_its_node_is_removed(tmp_path: Path, node: NodeWorker) -> None:
    left = Path(node.hello()["folder"]).with_name("runs-left")
    (left / "a run").mkdir(parents=True)
    other = NodeWorker({}, str(tmp_path / "runs"), ".worker/ray-none", 1, 0.0)
    assert not left.exists() and Path(node.hello()["folder"]).exists() and Path(other.hello()["folder"]).exists()


def test_folders_of_the_node_take_precedence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "token").touch()
    monkeypatch.setenv("WANAVATAR_WEIGHTS", "/data/weights")
    client = {"WANAVATAR_WEIGHTS_DIR": "/home/me/weights", "WANAVATAR_CACHE_DIR": "/home/me/cache"}
    made = NodeWorker(client | {"WANAVATAR_DEVICE": "cpu"}, str(tmp_path / "runs"), "token", 2, 0.0)
    assert made.shared and made._settings["WANAVATAR_WEIGHTS_DIR"] == "/data/weights"
    assert made._settings["WANAVATAR_CACHE_DIR"] == "/home/me/cache" and made._settings["WANAVATAR_DEVICE"] == "cpu"


def test_a_look_that_outlasts_its_killed_run_does_the_next_one_no_harm(
    node: NodeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[str] = []

    class StartingWorker:
        """A worker during whose start the look at the killed run wakes up."""

        def __init__(self, *_: object) -> None:
            node.look("killed", 0.0, {})

        def give(self, run_id: str) -> None:
            node.look("killed", 0.0, {})

        def news(self, seconds: float) -> None:
            return None

        def kill(self) -> int:
            killed.append("next")
            return -9

    monkeypatch.setattr(ray_node, "Worker", StartingWorker)
    node.kill()
    node.give("next")
    assert node.look("next", 0.0, {})["news"] is None and not killed
