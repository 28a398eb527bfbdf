"""Folders that are written completely or not at all, as `wanavatar_lab.files` writes files: clips and checkpoints."""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wanavatar_lab.files import disk_full, entries, found_no_room, remove, sync

_TEMPORARY = re.compile(r"\.(?P<name>.+)\.[0-9a-f]{12}")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a new folder beside `path`; on a clean exit it is synced and replaces `path`, else it is removed.

    Its name starts with a dot, so that what a killed process leaves is not taken for a complete folder.

    Raises:
        DiskFull: the disk has no space; nothing is left behind.
    """
    temporary = temporary_beside(path)
    temporary.mkdir()
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            sync(file)
        sync(temporary)
        replace_folder(temporary, path)
    except Exception as error:
        if found_no_room(error, temporary):
            raise disk_full(path) from error
        raise
    finally:
        remove(temporary)


def replace_folder(source: Path, target: Path) -> None:
    """Rename a folder; one at `target` is removed."""
    if target.exists():
        # a folder that is not empty cannot be replaced in one rename
        old = temporary_beside(target)
        os.replace(target, old)
        os.replace(source, target)
        remove(old)
    else:
        os.replace(source, target)
    sync(target.parent)


def remove_folder(path: Path) -> None:
    """Remove a folder, which at no moment is incomplete under its name."""
    old = temporary_beside(path)
    os.replace(path, old)
    remove(old)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left in `folder`; no other process may be writing there."""
    for path in entries(folder):
        if os.path.isdir(path) and is_temporary(path):
            remove(path)


def temporary_beside(path: Path) -> Path:
    """An unused name beside `path` that starts with a dot."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}")


def is_temporary(path: Path) -> bool:
    """Whether a folder has such a name; if no process is writing it, a killed one left it."""
    return _TEMPORARY.fullmatch(path.name) is not None
