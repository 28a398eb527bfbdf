"""Runs of the toy network that a launcher starts: waited for, watched, and ended with the test that began them."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from training.config import TrainingConfig
from training.launch.launch import start, state
from training.launch.machines import Machine
from training.launch.processes import LOG, MARK, Launcher, processes_of
from training.loop.run_folder import checkpoints

MODULE = "tests.training.launched"


@contextmanager
def alone(folder: Path, gpus: bool = False) -> Iterator[None]:
    """Within it, runs below `folder` are on the CPU unless `gpus`; of none of them anything is left behind."""
    with pytest.MonkeyPatch.context() as patch:
        if not gpus:
            patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if Path(process.environ().get(MARK, "/")).is_relative_to(folder):
                process.kill()


def finished(
    config: TrainingConfig, launcher: Launcher = "plain", processes: int = 1, machines: Sequence[Machine] = ()
) -> Path:
    """Start a run, or go on with it; gives its last checkpoint."""
    start(config, launcher, processes, MODULE, machines)
    wait_for(config.run, "finished")
    return checkpoints(config.run)[-1]


def wait_for(run: Path, what: str, seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while (found := state(run).state) != what:
        assert found == "running" and time.monotonic() < deadline, f"{found} and not {what}: {said(run)}"
        time.sleep(0.1)


def wait_for_step(run: Path, step: int, seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not any(int(folder.name.split("-")[1]) >= step for folder in checkpoints(run)):
        assert time.monotonic() < deadline and state(run).state == "running", said(run)
        time.sleep(0.02)


def wait_for_words(run: Path, words: str, seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while words not in said(run):
        assert time.monotonic() < deadline, said(run)
        time.sleep(0.02)


def said(run: Path) -> str:
    return (run / LOG).read_text() if (run / LOG).is_file() else "it said nothing"


def ranks(run: Path) -> dict[int, Any]:
    """The processes that train, by rank; all of one world."""
    found = {}
    for process in processes_of(run):
        environment = process.environ()
        if "RANK" in environment:
            assert environment["WORLD_SIZE"] == "2"
            found[int(environment["RANK"])] = process
    return found


# what reaches another machine: the name and the command after the options, and nothing of the environment
SSH = """#!/bin/sh
while [ $# -gt 2 ]; do shift; done
exec env -i PATH="$PATH" HOME="$HOME" CUDA_VISIBLE_DEVICES= MACHINE_NAME="$1" sh -c "$2"
"""


def stand_in_for_ssh(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str = SSH) -> None:
    """Put an `ssh` first in the path, by which this machine is others too."""
    (folder / "bin").mkdir()
    (folder / "bin" / "ssh").write_text(script)
    (folder / "bin" / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
