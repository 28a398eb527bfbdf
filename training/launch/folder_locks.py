"""Locks on folders: one training at a time in a run's, and no change to samples that a training reads.

The system releases such a lock when its process ends, however it ends.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wanavatar_lab import locks
from wanavatar_lab.errors import LabError

LOCK, STARTING, ENCODING = ".lock", ".starting.lock", ".encoding.lock"
_PATIENCE = 5.0  # seconds that a killed process may take to free its memory, and with it its lock


class AlreadyRunning(LabError):
    """Another training is running in the folder."""


@contextmanager
def training_in(run: Path, samples: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, and share the lock of the samples that it trains on.

    Raises:
        AlreadyRunning: another training is running in `run`.
        LabError: both are one folder.
    """
    if run.resolve() == samples.resolve():  # it would wait for the lock that it holds itself
        raise LabError(f"{run} is the folder of the samples. Give the run another one.")
    if is_trained_in(run) or (lock := locks.take(run / LOCK, wait=False)) is None:
        raise AlreadyRunning(
            f"Another training is running in {run}. Wait for it, stop it, or give this one another folder."
        )
    shared = None
    try:
        # A folder that is read-only and was encoded before there were locks has none, and nobody can change it either.
        # An encoding holds the lock for a moment only, so it is waited for.
        with suppress(OSError):
            shared = locks.take(samples / LOCK, wait=True, shared=True)
        yield
    finally:
        for held in (shared, lock):
            if held is not None:
                locks.drop(held)


def is_trained_in(run: Path) -> bool:
    """Whether a training is running in a folder; a killed one has some seconds to end."""
    deadline = time.monotonic() + _PATIENCE
    while (run / LOCK).is_file() and locks.is_locked(run / LOCK):
        if time.monotonic() > deadline:
            return True
        time.sleep(0.1)
    return False


@contextmanager
def starting_in(run: Path) -> Iterator[None]:
    """Hold the lock of those who start a run in a folder, which is made; to ask all machines takes minutes.

    Raises:
        AlreadyRunning: another process starts one there now.
    """
    run.mkdir(parents=True, exist_ok=True)
    lock = locks.take(run / STARTING, wait=False)
    if lock is None:
        raise AlreadyRunning(f"Another process starts the run in {run} at this moment. Wait for it, or stop the run.")
    try:
        yield
    finally:
        locks.drop(lock)


@contextmanager
def encoding_in(samples: Path) -> Iterator[None]:
    """Hold the lock of those who encode into a folder, which is made: each would remove what another one has written.

    Raises:
        LabError: another process encodes into it.
    """
    samples.mkdir(parents=True, exist_ok=True)
    try:
        lock = locks.take(samples / ENCODING, wait=False)
    except OSError:  # nobody can write to it, and it may have all samples already
        yield
        return
    if lock is None:
        raise LabError(f"Another process encodes into {samples}. Wait until it ends, or encode into another folder.")
    try:
        yield
    finally:
        locks.drop(lock)


@contextmanager
def changing(samples: Path) -> Iterator[None]:
    """Hold the lock of a folder of samples, to change which there are.

    Raises:
        LabError: a training reads them, or another encoding changes them.
    """
    lock = locks.take(samples / LOCK, wait=False)
    if lock is None:
        raise LabError(
            f"A training or another encoding uses the samples in {samples}, and these would differ. Wait until it "
            "ends, or encode into another folder."
        )
    try:
        yield
    finally:
        locks.drop(lock)
