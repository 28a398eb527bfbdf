"""Folders whose entries are renamed, removed or no folders at all between the listing and the next call."""

import errno
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.queue_for_tests import queue_settings_fixture  # noqa: F401  fixture
from tests.stages_for_tests import Relax
from training.data.whole_folder import remove_leftovers
from training.loop.run_folder import checkpoints
from wanavatar_lab.files import (
    entries,
    files_below,
    is_older,
    remove,
    remove_if_possible,
    stat_if_possible,
    whole_file,
    write_text,
)
from wanavatar_lab.lora.find import describe, find_adapters
from wanavatar_lab.runs import uploads
from wanavatar_lab.runs.run import Run, draft, list_runs, remove_stale_drafts
from wanavatar_lab.runs.status import Status
from wanavatar_lab.runs.trash import discard, discarded, empty
from wanavatar_lab.ui.file_field import earlier

AfterListing = Callable[[Path, Callable[[], object]], None]
LONG_AGO = 30 * 24 * 3600.0  # seconds; older than all that is kept for a time


@pytest.fixture(name="after_listing")
def after_listing_fixture(monkeypatch: pytest.MonkeyPatch) -> AfterListing:
    """Does something once, at the moment when a folder has been listed and nothing in it was looked at."""

    def arrange(folder: Path, change: Callable[[], object]) -> None:
        changes = [change]
        listdir = os.listdir

        def listed(path: Path) -> list[str]:
            names = listdir(path)
            if isinstance(path, Path) and path == folder and changes:
                changes.pop()()
            return names

        monkeypatch.setattr(os, "listdir", listed)

    return arrange


def bad_entries(folder: Path, name: str) -> list[Path]:
    """Entries that are not what such a name says: a link to nowhere, a link to itself, a pipe, a file."""
    nowhere, itself, pipe, file = (folder / name.format(number) for number in range(4))
    nowhere.symlink_to("nowhere")
    itself.symlink_to(itself.name)
    os.mkfifo(pipe)
    file.touch()
    for path in (nowhere, itself, pipe, file):
        os.utime(path, (time.time() - LONG_AGO,) * 2, follow_symlinks=False)
    return [nowhere, itself, pipe, file]


def test_what_is_listed_may_be_anything(tmp_path: Path) -> None:
    bad_entries(tmp_path, "{}.bin")
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "4.bin").touch()
    (tmp_path / "link").symlink_to("below")
    listed = entries(tmp_path)
    assert [entry.name for entry in listed] == ["0.bin", "1.bin", "2.bin", "3.bin", "below", "link"]
    assert [entry.name for entry in listed if os.path.isdir(entry)] == ["below", "link"]
    assert [entry.name for entry in listed if os.path.isfile(entry)] == ["3.bin"]
    assert [entry.name for entry in entries(tmp_path, "b*")] == ["below"]
    assert [entry.name for entry in files_below(tmp_path, "*.bin")] == ["3.bin", "4.bin"]
    assert entries(tmp_path / "3.bin") == entries(tmp_path / "nowhere") == files_below(tmp_path / "nowhere") == []
    assert [entry.name for entry in listed if is_older(entry, LONG_AGO)] == ["0.bin", "1.bin", "2.bin", "3.bin"]
    gone, endless = tmp_path / "gone", tmp_path / "1.bin"
    assert stat_if_possible(gone) is stat_if_possible(endless) is None and not is_older(gone, 0)
    for entry in listed:
        remove(entry)
        remove(entry)
    assert list(tmp_path.iterdir()) == []


def test_a_link_is_removed_and_not_its_target(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "link").symlink_to("kept")
    remove(tmp_path / "link")
    assert [entry.name for entry in files_below(tmp_path)] == ["file"]


def test_what_cannot_be_removed_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "unlink", refuse)  # a test that runs as root is refused nothing
    (tmp_path / "file").touch()
    assert not remove_if_possible(tmp_path / "file")
    assert "file could not be removed" in caplog.text


def test_a_draft_that_gets_its_name_meanwhile_is_left_alone(queue_settings: Path, after_listing: AfterListing) -> None:
    run = Run.create(Relax())
    draft = run.folder.rename(queue_settings / f".new-{run.id}")
    os.utime(draft, (time.time() - LONG_AGO,) * 2)
    after_listing(queue_settings, lambda: draft.rename(run.folder))
    remove_stale_drafts(queue_settings)
    assert list_runs() == [run]


def test_a_draft_goes_a_minute_after_its_client_was_killed(queue_settings: Path) -> None:
    killed = queue_settings / ".new-killed"
    killed.mkdir(parents=True)
    (killed / ".draft").touch()
    with draft(Relax(profile="pocket"), queue_settings, Status(submitted_at=1.0)) as held:
        remove_stale_drafts(queue_settings)
        assert killed.exists(), "its client may just have begun"
        for folder in (killed, held.folder):
            os.utime(folder, (time.time() - 61, time.time() - 61))
        remove_stale_drafts(queue_settings)
        assert not killed.exists() and held.folder.exists()
        assert ".draft" not in {path.name for path in held.publish().folder.iterdir()}


def test_stale_drafts_go_whatever_they_are(queue_settings: Path) -> None:
    run = Run.create(Relax())
    bad_entries(queue_settings, ".new-{}")
    (queue_settings / ".new-fresh").symlink_to("nowhere")
    remove_stale_drafts(queue_settings)
    assert sorted(os.listdir(queue_settings)) == [".new-fresh", run.id]


def test_a_run_deleted_meanwhile_is_no_damaged_one(
    queue_settings: Path, after_listing: AfterListing, caplog: pytest.LogCaptureFixture
) -> None:
    kept, deleted = Run.create(Relax()), Run.create(Relax())
    bad_entries(queue_settings, "20260101-120000-000{}-relax")
    after_listing(queue_settings, lambda: remove(deleted.folder))
    assert list_runs() == [kept]
    assert earlier({"numbers"}) == []
    assert caplog.text == ""


def test_the_trash_is_emptied_by_two_at_once(queue_settings: Path, after_listing: AfterListing) -> None:
    runs = [Run.create(Relax()) for _ in range(3)]
    for run in runs:
        run.write_status(run.status().model_copy(update={"state": "failed"}))
        discard(run)
    trash = queue_settings / ".trash"
    bad = bad_entries(trash, "20200101-120000-000{}-relax")
    (trash / ".gone-0").symlink_to("nowhere")
    after_listing(trash, lambda: remove(trash / runs[1].id))
    assert set(empty()) == {runs[0].id, runs[2].id, *(path.name for path in bad)}
    assert discarded() == [] and os.listdir(trash) == []


def test_uploads_left_behind_go_and_others_stay(tmp_path: Path, after_listing: AfterListing) -> None:
    *_, arrived = bad_entries(tmp_path, ".upload-{}.png")
    after_listing(tmp_path, lambda: arrived.rename(tmp_path / "arrived.png"))
    uploads.remove_left_behind(tmp_path)
    assert os.listdir(tmp_path) == ["arrived.png"]


def test_what_a_killed_tool_was_writing_goes_and_other_files_stay(tmp_path: Path) -> None:
    """A tool of the service, which is killed where it takes too long, cannot remove it itself."""
    (tmp_path / "voice.wav").touch()
    for _ in range(2):
        with pytest.raises(SystemExit), whole_file(tmp_path / "sound.wav") as temporary:
            raise SystemExit
        temporary.touch()  # which a killed process would not have removed
    left, written = sorted(tmp_path.glob(".sound.*"))
    (hidden := tmp_path / ".sound.wav").touch()
    for path in (left, hidden, tmp_path / "voice.wav"):
        os.utime(path, (time.time() - LONG_AGO,) * 2)
    uploads.remove_left_behind(tmp_path)
    assert {*tmp_path.iterdir()} == {written, hidden, tmp_path / "voice.wav"}


def test_files_are_written_on_a_disk_that_cannot_sync_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the shared folders of VirtualBox, which answer EINVAL."""
    sync, answer = os.fsync, errno.EINVAL

    def of_such_a_disk(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(answer, os.strerror(answer))
        sync(handle)

    monkeypatch.setattr(os, "fsync", of_such_a_disk)
    write_text(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    answer = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_text(tmp_path / "b.txt", "on a disk that fails")


def test_only_regular_files_are_loras_and_others_are_said(tmp_path: Path) -> None:
    folder = tmp_path / "loras" / "img"
    folder.mkdir(parents=True)
    bad_entries(folder, "style{}.safetensors")
    listed = describe(find_adapters(tmp_path), tmp_path)
    assert [one.name for one in listed if "cannot be read" in one.problem] == ["style0", "style1", "style2", "style3"]


def test_only_folders_are_checkpoints_and_leftovers_go(tmp_path: Path) -> None:
    bad_entries(tmp_path, "checkpoint-{}")
    (tmp_path / "checkpoint-7").mkdir()
    assert checkpoints(tmp_path) == [tmp_path / "checkpoint-7"]
    (tmp_path / ".checkpoint-9.0123456789ab").mkdir()
    (tmp_path / ".checkpoint-8.0123456789ab").symlink_to("checkpoint-7")
    remove_leftovers(tmp_path)
    assert checkpoints(tmp_path) == [tmp_path / "checkpoint-7"]
    assert not list(tmp_path.glob(".checkpoint-*"))
