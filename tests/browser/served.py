"""What the servers of this folder serve, and the browser that looks at it, for tests and commands alike."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.servers import REPOSITORY
from tests.conftest import CHROMIUM
from tests.queue_for_tests import eventually, is_alive, use_queue
from wanavatar_lab.worker.queue import RunQueue


@contextmanager
def served_folder(folder: Path) -> Iterator[Path]:
    """A folder with the notebooks, the samples and runs of its own, whose worker has ended when this ends.

    Servers that are started meanwhile serve it, and the weights are the repository's.
    """
    shutil.copytree(REPOSITORY / "notebooks", folder / "notebooks")
    (folder / "data").mkdir()
    shutil.copytree(REPOSITORY / "data" / "samples", folder / "data" / "samples")
    shutil.copy(REPOSITORY / "voila.json", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANAVATAR_SERVER_ROOT", str(folder))
        patch.setenv("WANAVATAR_WEIGHTS", str(REPOSITORY / "weights"))
        use_queue(patch, folder / "runs", idle_seconds=60)
        try:
            yield folder
        finally:
            pids = RunQueue(folder / "runs").process_ids()
            if pids is not None and is_alive(pids.supervisor):
                with suppress(ProcessLookupError):  # ended by itself in between
                    os.kill(pids.supervisor, signal.SIGTERM)
                eventually(lambda: not is_alive(pids.supervisor))


@contextmanager
def launched_chromium() -> Iterator[Browser]:
    """The system's Chromium, which plays H.264 and needs no download."""
    program = next(filter(None, map(shutil.which, CHROMIUM)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--disable-gpu"],
        )
        yield browser
        browser.close()
