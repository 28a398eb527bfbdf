"""Notebooks executed by the line that papermill's own documentation has, from the repository's root."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from click.testing import CliRunner
from papermill.cli import papermill as papermill_line

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


def papermill(name: str, out: Path, *words: str, here: bool = False) -> Done:
    """`papermill notebooks/NAME.ipynb OUT/NAME.ipynb WORDS...`

    Args:
        here: whether the line is executed in this process, which has imported papermill; that takes a second and more.
    """
    out.mkdir(parents=True, exist_ok=True)
    line = [f"notebooks/{name}.ipynb", str(out / f"{name}.ipynb"), "--no-progress-bar", *words]
    if here:
        with chdir(REPOSITORY):
            ended = CliRunner().invoke(papermill_line, line)
        code, told = ended.exit_code, f"{ended.stderr}{ended.exception or ''}"
    else:
        done = subprocess.run(
            [str(PAPERMILL), *line], cwd=REPOSITORY, env=os.environ, capture_output=True, text=True, check=False
        )
        code, told = done.returncode, done.stderr
    return Done(code, said(nbformat.read(out / f"{name}.ipynb", as_version=4)), told)


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
