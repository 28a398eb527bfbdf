"""Locks on files, which the system takes back when the process that holds them ends, however it ends.

They are `flock`s. Such a lock lasts until every copy of its handle is closed, and a fork copies handles: a process
forked by a stage would hold its parent's locks after the parent was killed. So forked processes close their copies.
Programs that are started get none, unless the handle is passed on to them.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ours: set[int] = set()


def take(path: Path, *, wait: bool, shared: bool = False) -> int | None:
    """Lock `path`, which is made if it is missing.

    Args:
        wait: until whoever holds it lets go.
        shared: others may hold it so too, and nobody as their own; then it is enough to be allowed to read it.

    Returns:
        A handle for `drop`; without `wait` None if another holds it.
    """
    handle = os.open(path, (os.O_RDONLY if shared else os.O_RDWR) | os.O_CREAT, 0o666)
    _ours.add(handle)
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(handle, how if wait else how | fcntl.LOCK_NB)
    except BlockingIOError:
        drop(handle)
        return None
    except BaseException:
        drop(handle)
        raise
    return handle


def drop(handle: int) -> None:
    """Close a handle from `take`: that lets go of the lock, unless a started program was given the handle too."""
    _ours.discard(handle)
    os.close(handle)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of `path`, waiting for it."""
    handle = take(path, wait=True)
    assert handle is not None  # it was waited for
    try:
        yield
    finally:
        drop(handle)


def is_locked(path: Path) -> bool:
    """Whether someone holds the lock of `path`; not if there is no such file (any more)."""
    try:
        file = open(path, "rb")  # noqa: SIM115  the errors of opening are told from those of locking
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return False
    with file:
        try:
            # shared, so that two who ask at the same time do not take each other for a holder
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _close_copies() -> None:
    while _ours:
        os.close(_ours.pop())


os.register_at_fork(after_in_child=_close_copies)
