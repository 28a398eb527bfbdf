"""Files that appear whole or not at all."""

import errno
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import DiskFull

OUT_OF_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        if error.errno in OUT_OF_ROOM:
            raise DiskFull(
                f"There is no room for {target.name} in {target.parent}. Free some space there, or set "
                "WANAVATAR_RUNS_DIR to a folder on a larger disk, and run it again."
            ) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


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


def _sync_folder(folder: Path) -> None:
    # a rename is durable only once the folder that holds the name is synced too
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
