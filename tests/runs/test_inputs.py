"""A run reads its input files as they were when it was submitted, whatever happens to them and whatever their names."""

import errno
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.queue_for_tests import (
    PATIENCE,
    QueueUnderTest,
    eventually,
    let_go,
    queue_settings_fixture,  # noqa: F401  fixtures
    shared_queue_fixture,  # noqa: F401
)
from tests.stages_for_tests import SIDE, Relax
from wanavatar_lab.errors import RequestError
from wanavatar_lab.files import sha256_of
from wanavatar_lab.jobs import run_here
from wanavatar_lab.requests import Upscale
from wanavatar_lab.runs import inputs
from wanavatar_lab.runs.inputs import changed_since
from wanavatar_lab.runs.run import Run
from wanavatar_lab.worker.execute import execute
from wanavatar_lab.worker.model_cache import ModelCache

CP949 = os.fsdecode("가나다.npy".encode("cp949"))  # as `unzip` leaves a name of a Korean Windows


def numbers(path: Path, value: float) -> Path:
    np.save(path, np.full((SIDE, SIDE), value))
    return path


def middle(run: Run) -> float:
    """Smoothing leaves a constant field as it is, but for its upper and lower edges."""
    return float(np.load(run.path(run.status().artifacts[0]))[SIDE * SIDE // 2])


@pytest.fixture(name="without_copies")
def without_copies_fixture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "LARGEST_COPY", 0)
    monkeypatch.setattr(inputs, "_share_blocks", lambda *_: False)


def test_a_file_that_is_written_over_while_runs_wait_is_read_as_it_was(
    shared_queue: QueueUnderTest, tmp_path: Path
) -> None:
    first = shared_queue.submit(steps=2, hold_at=1)
    jobs = [shared_queue.submit(start=str(numbers(tmp_path / "out.npy", value)), kilobytes=32) for value in (1, 2, 3)]
    (tmp_path / "out.npy").unlink()
    let_go(first)
    assert [job.wait(PATIENCE).state for job in jobs] == ["succeeded"] * 3
    assert [middle(job.run) for job in jobs] == [1, 2, 3]
    hashes = {job.run.manifest()["inputs"]["start"]["sha256"] for job in jobs}
    assert len(hashes) == 3
    assert [path.name for job in jobs for path in job.run.folder.iterdir() if path.name.startswith(".")] == []
    assert str(tmp_path) not in json.dumps([job.run.manifest() for job in jobs])


def test_a_large_file_is_not_copied_and_refused_once_it_has_changed(
    queue_settings: Path, tmp_path: Path, without_copies: None
) -> None:
    file = numbers(tmp_path / "large.npy", 1)
    runs = [Run.create(Relax(start=str(file))) for _ in range(3)]
    assert not list(runs[0].folder.glob(".inputs/start/*"))
    execute(runs[0], ModelCache("cpu"))
    shutil.copy(file, tmp_path / "aside.npy")
    os.replace(tmp_path / "aside.npy", file)  # another file with the same contents
    execute(runs[1], ModelCache("cpu"))
    numbers(file, 2)
    execute(runs[2], ModelCache("cpu"))
    assert [run.status().state for run in runs] == ["succeeded", "succeeded", "failed"]
    assert middle(runs[0]) == middle(runs[1]) == 1
    error = str(runs[2].status().error)
    assert error.startswith(f"start: '{file}' is not the file any more") and "submit it again" in error


def test_a_large_file_that_changes_during_the_run_fails_it(
    queue_settings: Path, tmp_path: Path, without_copies: None
) -> None:
    run = Run.create(Relax(start=str(numbers(tmp_path / "large.npy", 1)), steps=2, hold_at=1))
    thread = threading.Thread(target=execute, args=(run, ModelCache("cpu")))
    thread.start()
    eventually(lambda: (run.folder / "steps.txt").exists())
    numbers(tmp_path / "large.npy", 2)
    (run.folder / "go").touch()
    thread.join(PATIENCE)
    assert run.status().state == "failed" and "is not the file any more" in str(run.status().error)


def test_weights_are_compared_and_not_copied(queue_settings: Path, tmp_path: Path) -> None:
    picture, weights = tmp_path / "a.png", tmp_path / "w.pth"
    picture.write_bytes(b"picture")
    weights.write_bytes(b"weights")
    run = Run.create(Upscale(image=str(picture), weights=str(weights), profile="pocket"))
    assert [path.name for path in run.folder.glob(".inputs/*/*")] == ["a.png"]
    weights.write_bytes(b"others!")
    execute(run, ModelCache("cpu"))
    assert str(run.status().error).startswith("weights: ")


def test_a_copy_shares_blocks_where_the_disk_can(
    queue_settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def clone(target: int, request: int, source: int) -> None:
        if request != 0x40049409:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        os.write(target, os.pread(source, 10**6, 0))

    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("fcntl.ioctl", clone)
    monkeypatch.setattr(inputs, "LARGEST_COPY", 0)
    file = numbers(tmp_path / "large.npy", 5)
    run = Run.create(Relax(start=str(file)))
    numbers(file, 6)
    execute(run, ModelCache("cpu"))
    assert middle(run) == 5


def test_a_file_that_is_still_being_written_is_refused(
    queue_settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = numbers(tmp_path / "out.npy", 1)

    def while_it_grows(path: Path) -> str:
        with open(file, "ab") as growing:
            growing.write(b"more")
        return sha256_of(path)

    monkeypatch.setattr(inputs, "sha256_of", while_it_grows)
    with pytest.raises(RequestError, match=r"start: '.*out\.npy' is being written to"):
        Run.create(Relax(start=str(file)))
    assert list(queue_settings.iterdir()) == []


def test_an_error_names_the_users_file_and_not_the_copy(queue_settings: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    run = run_here(Upscale(image=str(tmp_path / "a.png"), profile="pocket"))
    error = str(run.status().error)
    assert f"{tmp_path}/a.png is not a picture" in error and ".inputs" not in error
    assert run.manifest()["error"] == error.replace(f"{tmp_path}/", "")


def test_a_rerun_knows_which_files_are_others_now(queue_settings: Path, tmp_path: Path) -> None:
    file = numbers(tmp_path / "a.npy", 1)
    run = run_here(Relax(start=str(file)))
    again = run.request(), run.manifest()
    assert changed_since(*again) == []
    os.utime(file)
    assert changed_since(*again) == [], "the same contents"
    numbers(file, 2)
    assert changed_since(*again) == ["a.npy"]
    file.unlink()
    assert changed_since(*again) == [], "which submitting says"


@pytest.mark.parametrize(
    "name", [CP949, "-x.npy", "two\nlines\t.npy", "\x1b[31mred.npy", "가" * 80 + ".npy", "%20 'a' \"b\".npy", "\\a.npy"]
)
def test_a_file_of_any_name_is_read(queue_settings: Path, tmp_path: Path, name: str) -> None:
    run = run_here(Relax(start=str(numbers(tmp_path / name, 4))))
    assert run.status().state == "succeeded" and middle(run) == 4
    assert run.request().input_files()["start"] == tmp_path / name
    noted: dict[str, Any] = run.manifest()["inputs"]["start"]
    assert noted["name"] == name and run.manifest()["request"]["start"] == name
    for file in ("request.json", "status.json", "manifest.json"):
        (run.folder / file).read_text(encoding="utf-8")


def test_a_run_with_such_a_file_fails_in_words(queue_settings: Path, tmp_path: Path) -> None:
    name = CP949.replace(".npy", ".png")
    (tmp_path / name).write_bytes(b"no picture")
    run = run_here(Upscale(image=str(tmp_path / name), profile="pocket"))
    assert r"\udcb0\udca1" in str(run.status().error) and "is not a picture" in str(run.status().error)
