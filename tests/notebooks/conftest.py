"""Runs on the models that ship, by one worker for all tests of this folder: it takes seconds to import torch."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebooks.papermill_lines import settings_of
from tests.queue_for_tests import REPOSITORY, QueueUnderTest


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """As a checkout: its notebooks and a folder for runs, with a queue."""
    folder = tmp_path_factory.mktemp("notebooks")
    (folder / "notebooks").symlink_to(REPOSITORY / "notebooks")
    yield folder
    QueueUnderTest(folder / "runs").close()


@pytest.fixture(scope="module")
def place(shared_folder: Path) -> Iterator[Path]:
    """The shared folder, which the settings name during the tests of a file; some have a folder of their own."""
    with settings_of(shared_folder):
        yield shared_folder
