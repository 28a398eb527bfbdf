"""Who is at work in a folder: one training in a run's, and nobody who changes the samples that a training reads.

The system takes such a lock back when its process ends, however it ends.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    if is_trained_in(run) or (mine := locks.take(run / LOCK, wait=False)) is None:
        raise LabError(
            f"Another training is at work in {run}. Wait for it or stop it, or give this one another folder."
        )
    try:
        with _reading(samples):
            yield
    finally:
        locks.drop(mine)


@contextmanager
def _reading(samples: Path) -> Iterator[None]:
    try:
        # whoever encodes holds it for a moment only
        mine = locks.take(samples / LOCK, wait=True, shared=True)
    except OSError:  # nothing was encoded there since there are locks, and nothing can be written
        mine = None
    try:
        yield
    finally:
        if mine is not None:
            locks.drop(mine)


def is_trained_in(run: Path) -> bool:
    """Whether a training is at work in a folder; one that was killed has some seconds in which to end."""
    deadline = time.monotonic() + _PATIENCE
    while (run / LOCK).is_file() and locks.is_locked(run / LOCK):
        if time.monotonic() > deadline:
            return True
        time.sleep(0.1)
    return False


@contextmanager
def changing(samples: Path) -> Iterator[None]:
    """Change which samples there are.

    Raises:
        LabError: a training reads them, or another encoding changes them.
    """
    mine = locks.take(samples / LOCK, wait=False)
    if mine is None:
        raise LabError(
            f"A training or another encoding is at work on the samples in {samples}, and these would not be the same. "
            "Let it end first, or encode into another folder."
        )
    try:
        yield
    finally:
        locks.drop(mine)
