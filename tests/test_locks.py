"""A lock that another process does not release is waited for, and the wait is reported."""

import errno
import os
import threading
from pathlib import Path

import pytest

from tests.queue_for_tests import (
    eventually,
    queue_settings_fixture,  # noqa: F401  a fixture
)
from tests.stages_for_tests import Relax
from wanavatar_lab import locks
from wanavatar_lab.errors import LabError
from wanavatar_lab.jobs import list_jobs, run_here, submit


def test_a_lock_that_is_waited_for_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "REPORT_AFTER", 0.0)
    path = tmp_path / "queue.lock"
    handle = locks.take(path, wait=False)
    assert handle is not None and locks.take(path, wait=False) is None and locks.is_locked(path)
    entered = threading.Event()

    def wait() -> None:
        with locks.locked(path):
            entered.set()

    thread = threading.Thread(target=wait)
    thread.start()
    eventually(lambda: f"Waiting for another process to release {path}" in caplog.text)
    assert not entered.is_set()
    locks.drop(handle)
    thread.join()
    assert entered.is_set() and not locks.is_locked(path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP])
def test_a_disk_without_locks_is_named_with_the_setting(
    queue_settings: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    old = run_here(Relax())

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    text = f"is on a disk without file locks \\({os.strerror(number)}\\).* set WANAVATAR_RUNS_DIR"
    with pytest.raises(LabError, match=f"^{queue_settings}/[^/]+ {text}"):
        submit(Relax())
    with pytest.raises(LabError, match=text):
        locks.is_locked(old.folder / "log.txt")
    assert [job.status().state for job in list_jobs()] == ["succeeded"], "an archive is listed"
    assert [path.name for path in queue_settings.iterdir() if path.name.startswith(".new")] == []
