"""Disk space reserved for the last status and manifest of a run, so that they can be written when the disk is full.

While there is still room, a run reserves a few blocks in hidden files of its own. Its manifest and its last status are
written *into* those blocks, which takes no new ones, and the files are renamed to their names: readers see the old
text or the new one, as always. Deleting something to make room would not do, since another program that fills the disk
takes what is freed first.
"""

import errno
import os
from pathlib import Path

from wanavatar_lab.files import OUT_OF_ROOM, encoded, write_bytes

# bytes: a status that holds the longest error message twice (error and message), and a manifest with a long request
SIZES = {"status.json": 16 * 1024, "manifest.json": 64 * 1024}


def reserve(folder: Path) -> None:
    """Reserve the blocks for the last status and manifest of the run in `folder`.

    Raises:
        DiskFull: there is no room even for these.
    """
    for name, size in SIZES.items():
        write_bytes(_reserved(folder / name), b" " * size)


def is_reserved_space(path: Path) -> bool:
    """Whether `path` is a file of reserved blocks."""
    return path.name in {_reserved(Path(name)).name for name in SIZES}


def write_last(path: Path, text: str) -> None:
    """Write `text` to `path`, whole or not at all, into the blocks reserved for it, which it uses up.

    Raises:
        DiskFull: none were reserved, or too few, and there is no other room.
    """
    data = encoded(text)
    reserved = _reserved(path)
    if not reserved.exists() or len(data) > reserved.stat().st_size:
        write_bytes(path, data)
        reserved.unlink(missing_ok=True)
        return
    try:
        with open(reserved, "r+b", buffering=0) as file:
            if file.write(data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(reserved))
            file.truncate()
            os.fsync(file.fileno())
        os.replace(reserved, path)
    except OSError as error:
        if error.errno not in OUT_OF_ROOM:
            raise
        # a copy-on-write disk writes to new blocks even here; then the old ones have to be given back first
        reserved.unlink()
        write_bytes(path, data)


def _reserved(path: Path) -> Path:
    return path.with_name(f".reserve.{path.name}")
