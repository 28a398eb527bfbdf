"""The last word of a run, which can be written when the disk is full.

While there is still room, a run sets a few blocks aside in files of its own. Its manifest and its last status are
written *into* those blocks, which takes no new ones, and the files are renamed to their names: readers see the old
text or the new one, as always. Deleting something to make room would not do, for another program that fills the disk
takes what is freed before we do.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wanavatar_lab.files import OUT_OF_ROOM, disk_full, write_bytes

SIZES = {"status.json": 16 * 1024, "manifest.json": 64 * 1024}  # bytes


def set_aside(folder: Path) -> None:
    """Take the blocks for the last status and manifest of the run in `folder`.

    Raises:
        DiskFull: there is no room even for these.
    """
    for name, size in SIZES.items():
        write_bytes(_reserve(folder / name), b" " * size)


def is_reserved_space(path: Path) -> bool:
    """Whether `path` is such a file of blocks."""
    return path.name in {_reserve(Path(name)).name for name in SIZES}


def write_last(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all, into the blocks set aside for it, which it uses up.

    Raises:
        DiskFull: none were set aside, or too few, and there is no other room.
    """
    data = text.encode("utf-8")
    reserve = _reserve(path)
    if not reserve.exists() or len(data) > reserve.stat().st_size:
        write_bytes(path, data)
        reserve.unlink(missing_ok=True)
        return
    try:
        _write_into(reserve, data)
        os.replace(reserve, path)
    except OSError as error:
        if error.errno not in OUT_OF_ROOM:
            raise
        # a copy-on-write disk writes to new blocks even here; then the old ones have to be given back first
        reserve.unlink()
        write_bytes(path, data)


@contextmanager
def says_disk_full(path: Path) -> Iterator[None]:
    """Turn the system's words for "no room" into ours; `path` is what was being made."""
    try:
        yield
    except OSError as error:
        if error.errno in OUT_OF_ROOM:
            raise disk_full(path) from error
        raise


def _reserve(path: Path) -> Path:
    return path.with_name(f".reserve.{path.name}")


def _write_into(reserve: Path, data: bytes) -> None:
    """Replace what `reserve` holds by `data`, in place; it gets shorter, never longer."""
    handle = os.open(reserve, os.O_WRONLY)
    try:
        written = os.pwrite(handle, data, 0)
        if written != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(reserve))
        os.ftruncate(handle, len(data))
        os.fsync(handle)
    finally:
        os.close(handle)
