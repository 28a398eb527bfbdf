"""Notebooks executed by the line that papermill's own documentation has, as a process from the repository's root."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.queue_for_tests import REPOSITORY, QueueUnderTest, use_queue

PAPERMILL = Path(sys.executable).with_name("papermill")


@dataclass(frozen=True)
class Done:
    """How a line ended.

    Attributes:
        code: papermill's exit code.
        said: what the notebook's cells printed, and nothing of what their widgets are.
        told: what papermill wrote to its standard error: warnings, progress, and the traceback of a cell that failed.
    """

    code: int
    said: str
    told: str


def papermill(name: str, out: Path, *words: str) -> Done:
    """`papermill notebooks/NAME.ipynb OUT/NAME.ipynb WORDS...`"""
    out.mkdir(parents=True, exist_ok=True)
    line = [str(PAPERMILL), f"notebooks/{name}.ipynb", str(out / f"{name}.ipynb"), "--no-progress-bar", *words]
    done = subprocess.run(line, cwd=REPOSITORY, env=os.environ, capture_output=True, text=True, check=False)
    return Done(done.returncode, said(nbformat.read(out / f"{name}.ipynb", as_version=4)), done.stderr)


def said(notebook: Any) -> str:
    """What an executed notebook printed."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


@contextmanager
def settings_of(folder: Path) -> Iterator[Path]:
    """Settings by which a folder has the runs, on the models that ship, and is where pages are served from."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANAVATAR_WEIGHTS", str(REPOSITORY / "weights"))
        patch.setenv("WANAVATAR_SERVER_ROOT", str(folder))
        use_queue(patch, folder / "runs", idle_seconds=60)
        yield folder


@contextmanager
def queue_of(folder: Path) -> Iterator[Path]:
    """A folder with a queue of its own, with these settings."""
    with settings_of(folder):
        try:
            yield folder
        finally:
            QueueUnderTest(folder / "runs").close()
