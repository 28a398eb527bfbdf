"""Deleted runs: gone from every list, brought back as they were, and removed for good after their time."""

import errno
import os
import time
from pathlib import Path

import pytest

from tests.queue_for_tests import queue_settings_fixture  # noqa: F401  fixture
from tests.stages_for_tests import Relax
from wanavatar_lab.errors import LabError, RunError
from wanavatar_lab.jobs import attach, list_jobs, run_here
from wanavatar_lab.runs.run import Run, list_runs
from wanavatar_lab.runs.trash import KEPT, discard, discarded, empty, restore


def test_a_run_goes_and_comes_back_as_it_was(queue_settings: Path) -> None:
    run = run_here(Relax(profile="pocket"))
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    discard(run)
    assert (list_runs(), list_jobs(), discarded()) == ([], [], [run.id])
    with pytest.raises(RunError, match="There is no run"):
        attach(run.id)
    with pytest.raises(RunError, match="There is no run"):
        discard(run)
    assert restore(run.id) == run
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before
    assert list_runs() == [run] and discarded() == []


def test_what_waits_or_runs_stays(queue_settings: Path) -> None:
    waiting = Run.create(Relax(profile="pocket"))
    with pytest.raises(RunError, match="has not ended; cancel it"):
        discard(waiting)
    ended = run_here(Relax(profile="pocket"))
    with ended.held(), pytest.raises(RunError, match="has not ended"):
        discard(ended)
    assert len(list_runs()) == 2


def test_a_runs_folder_that_is_read_only_is_said(queue_settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, deleted = (run_here(Relax(profile="pocket")) for _ in range(2))
    discard(deleted)

    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(Path, "rename", refuse)
    for change in (lambda: discard(run), lambda: restore(deleted.id)):
        with pytest.raises(LabError, match=r"Permission denied\. Change its permissions, or set WANAVATAR_RUNS_DIR"):
            change()
    assert (list_runs(), discarded()) == ([run], [deleted.id])


@pytest.mark.parametrize("run_id", ["", "..", "20260101-120000-ab12-relax", ".gone-20260101-120000-ab12-relax"])
def test_what_was_not_deleted_does_not_come_back(queue_settings: Path, run_id: str) -> None:
    with pytest.raises(RunError, match="There is no deleted run"):
        restore(run_id)


def test_old_ones_are_removed_when_another_is_deleted(queue_settings: Path) -> None:
    old, recent, new = (run_here(Relax(profile="pocket")) for _ in range(3))
    discard(old)
    discard(recent)
    long_ago = time.time() - KEPT - 60
    os.utime(queue_settings / ".trash" / old.id, (long_ago, long_ago))
    discard(new)
    assert set(discarded()) == {recent.id, new.id}
    assert set(empty()) == {recent.id, new.id}
    assert list((queue_settings / ".trash").iterdir()) == []


def test_a_removal_that_was_broken_off_is_finished(queue_settings: Path) -> None:
    run = run_here(Relax(profile="pocket"))
    discard(run)
    (queue_settings / ".trash" / run.id).rename(queue_settings / ".trash" / f".gone-{run.id}")
    assert discarded() == []
    empty()
    assert list((queue_settings / ".trash").iterdir()) == []


def test_a_link_among_the_deleted_is_removed_without_its_target(queue_settings: Path, tmp_path: Path) -> None:
    discard(run_here(Relax(profile="pocket")))
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    link = queue_settings / ".trash" / "20260101-120000-ab12-relax"
    link.symlink_to(tmp_path / "kept")
    discard(run_here(Relax(profile="pocket")))
    assert link.name in empty()
    assert os.listdir(queue_settings / ".trash") == [] and os.listdir(tmp_path / "kept") == ["file"]
