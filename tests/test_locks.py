"""A lock that another process does not release is waited for, and the wait is reported."""

import threading
from pathlib import Path

import pytest

from tests.queue_for_tests import eventually
from wanavatar_lab import locks


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
