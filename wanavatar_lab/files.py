"""Files that appear whole or not at all."""

import errno
import json
import os
import resource
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import Cancelled, DiskFull, LabError

OUT_OF_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
LEAST_ROOM = 64 * 1024  # bytes; a write that fails while fewer are free has failed for that reason


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Give a temporary path beside `path`; on a clean exit it is synced and renamed to `path`, else removed.

    The temporary name keeps the suffix, since encoders choose their container by it, and starts with a dot, so
    that listings leave it out.

    Raises:
        DiskFull: the disk has no room (or a file-size limit is reached); nothing is left behind.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(6)}{target.suffix}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, target)
        sync(target.parent)
    except Exception as error:
        if _found_no_room(error, temporary):
            raise disk_full(target) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Make a file's contents durable, or the names in a folder: a rename is so only once its folder is synced too."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def disk_full(path: Path) -> DiskFull:
    """The error to raise where a write to `path` found no room."""
    return DiskFull(
        f"There is no room for {path.name} in {path.parent}. Free some space there, or set WANAVATAR_RUNS_DIR to a "
        "folder on a larger disk, and run it again."
    )


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n")


def _found_no_room(error: Exception, written: Path) -> bool:
    """Whether `error` came of a full disk, or of a limit on the size of a file, while `written` was written."""
    if getattr(error, "errno", None) in OUT_OF_ROOM:
        return True
    if isinstance(error, LabError | Cancelled) or not written.exists():
        return False
    # numpy, Pillow, torch and safetensors tell of a failed write in words of their own, without the system's number
    disk, largest = os.statvfs(written.parent), resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return disk.f_bavail * disk.f_frsize < LEAST_ROOM or 0 <= largest <= written.stat().st_size
