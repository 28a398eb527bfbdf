"""Locks on files, which the system releases when the process that holds them ends, however it ends.

They are `flock`s. Such a lock lasts until every copy of its handle is closed, and a fork copies handles: a process
forked by a stage would hold its parent's locks after the parent was killed. So forked processes close their copies.
Programs that are started get none, unless the handle is passed on to them.
"""

import errno
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wanavatar_lab.errors import LabError

REPORT_AFTER = 1.0  # seconds; locks that are waited for are held for milliseconds, so by then something is wrong
# of flock on a disk without locks, as some of NFS, SMB and FUSE (Google Drive in Colab) are
WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


class NoLocks(LabError):
    """A folder is on a disk without locks."""


_log = logging.getLogger(__name__)
_ours: set[int] = set()


def take(path: Path, *, wait: bool, shared: bool = False) -> int | None:
    """Lock `path`, which is made if it is missing.

    Args:
        wait: until the lock is free; after `REPORT_AFTER` seconds a warning says so.
        shared: other shared locks are allowed at the same time; read permission is enough.

    Returns:
        A handle for `drop`; without `wait` None if another process holds the lock.

    Raises:
        NoLocks: the disk has none.
    """
    handle = os.open(path, (os.O_RDONLY if shared else os.O_RDWR) | os.O_CREAT, 0o666)
    _ours.add(handle)
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    warning = threading.Timer(REPORT_AFTER, _log.warning, ("Waiting for another process to release %s.", path))
    warning.daemon = True
    try:
        with suppress(BlockingIOError):
            fcntl.flock(handle, how | fcntl.LOCK_NB)
            return handle
        if wait:
            warning.start()
            fcntl.flock(handle, how)
            return handle
    except BaseException as error:
        drop(handle)
        if isinstance(error, OSError) and error.errno in WITHOUT_LOCKS:
            raise _no_locks(path, error) from error
        raise
    finally:
        warning.cancel()
    drop(handle)
    return None


def drop(handle: int) -> None:
    """Close a handle from `take`: that releases the lock, unless a started program was given the handle too."""
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
    """Whether a process holds the lock of `path`; not if there is no such file (any more)."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for a writer
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        # shared, so that two that check at the same time do not take each other for a holder
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno in WITHOUT_LOCKS:
            raise _no_locks(path, error) from error
        raise
    finally:
        os.close(handle)
    return False


def _no_locks(path: Path, error: OSError) -> NoLocks:
    return NoLocks(
        f"{path.parent} is on a disk without file locks ({error.strerror}), such as some network folders and mounted "
        "cloud storage. Use a folder on a local disk; for runs, set WANAVATAR_RUNS_DIR to it."
    )


def _close_copies() -> None:
    while _ours:
        os.close(_ours.pop())


os.register_at_fork(after_in_child=_close_copies)
