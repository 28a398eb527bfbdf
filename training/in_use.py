"""Who is at work in a folder: one training in a run's, and nobody who changes the samples that a training reads.

The system takes such a lock back when its process ends, however it ends.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from wanavatar_lab import locks
from wanavatar_lab.errors import LabError

LOCK = ".lock"
_PATIENCE = 5.0  # seconds in which a process that was killed has ended


@contextmanager
def training_in(run: Path, samples: Path) -> Iterator[None]:
    """Train in one folder on the samples of another.

    Raises:
        LabError: another training is at work in `run`.
    """
    deadline = time.monotonic() + _PATIENCE
    while (mine := locks.take(run / LOCK, wait=False)) is None:
        if time.monotonic() > deadline:
            raise LabError(
                f"Another training is at work in {run}. Wait for it or stop it, or give this one another folder."
            )
        time.sleep(0.1)
    try:
        with _reading(samples) if os.access(samples, os.W_OK) else nullcontext():
            yield
    finally:
        locks.drop(mine)


@contextmanager
def _reading(samples: Path) -> Iterator[None]:
    # whoever encodes holds it for a moment only
    mine = locks.take(samples / LOCK, wait=True, shared=True)
    assert mine is not None  # it was waited for
    try:
        yield
    finally:
        locks.drop(mine)


def is_trained_in(run: Path) -> bool:
    """Whether a training is at work in a folder."""
    return (run / LOCK).is_file() and locks.is_locked(run / LOCK)


@contextmanager
def changing(samples: Path) -> Iterator[None]:
    """Change which samples there are.

    Raises:
        LabError: a training reads them.
    """
    mine = locks.take(samples / LOCK, wait=False)
    if mine is None:
        raise LabError(
            f"A training is at work on the samples in {samples}, and these would not be the same. Stop it first, or "
            "encode into another folder."
        )
    try:
        yield
    finally:
        locks.drop(mine)
