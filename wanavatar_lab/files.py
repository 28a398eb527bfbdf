"""Files and folders on disk: files that appear whole or not at all, and folders that other processes change meanwhile.

Between the listing of a folder and the next call an entry may be renamed or removed, and it may never have been what
its name says: a link without a target, a link to itself, a pipe, a file instead of a folder, something that may not be
read. Every such call goes through the functions below, so that one entry never breaks a whole list.
"""

import errno
import hashlib
import json
import logging
import os
import re
import resource
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import Any

from wanavatar_lab.errors import Cancelled, DiskFull, LabError

OUT_OF_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}
NO_FOLDER = {errno.EEXIST, errno.ENOTDIR, errno.ELOOP}  # of making one: a file has its name, or a link without a target
WITHOUT_SYNC = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}
# bytes; libraries write in blocks of at most so much, so a write that fails while less is free has failed for that
LEAST_ROOM = 64 * 1024
RUNS_DIR = {"WANAVATAR_RUNS_DIR": Path("/")}  # the setting that is named where no other is known
_RUST_ERROR = re.compile(r"\(os error (\d+)\)(?: at path \"(.+)\")?")  # as safetensors has it in its errors' text
_LONGEST_STEM = 64  # bytes of a name that its temporary one has too
TEMPORARY = re.compile(r"\..*\.[0-9a-f]{12}(\.[^.]*)?", re.DOTALL)  # names that `whole_file` gives

_log = logging.getLogger(__name__)


@contextmanager
def whole_file(path: Path | str, *, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path beside `path`; on a clean exit it is renamed to `path`, else removed.

    The temporary name keeps the suffix, since encoders choose their container by it, and starts with a dot, so
    that listings leave it out. Of a long name it has the beginning only, since disks allow 255 bytes and some 143.

    Args:
        durable: sync the file and its folder, so that a power cut does not undo it.

    Raises:
        DiskFull: the disk has no room (or a file-size limit is reached); nothing is left behind.
    """
    target = Path(path)
    begin = os.fsencode(target.stem)[:_LONGEST_STEM].decode(errors="ignore")
    temporary = target.with_name(f".{begin}.{secrets.token_hex(6)}{target.suffix}")
    try:
        yield temporary
        if durable:
            sync(temporary)
        os.replace(temporary, target)
        if durable:
            sync(target.parent)
    except Exception as error:
        if found_no_room(error, temporary):
            raise disk_full(target) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def found_no_room(error: Exception, written: Path) -> bool:
    """Whether `error` comes from a full disk, or from a limit on the size of a file.

    Args:
        written: the file, or the folder of files, that was being written.
    """
    if _said_by_system(error)[0] in OUT_OF_ROOM:
        return True
    if isinstance(error, LabError | Cancelled) or not written.exists():
        return False
    # numpy, Pillow and torch report a failed write in words of their own, without the system's number
    disk, largest = os.statvfs(written.parent), resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    sizes = [file.stat().st_size for file in (files_below(written) if os.path.isdir(written) else [written])]
    return disk.f_bavail * disk.f_frsize < LEAST_ROOM or 0 <= largest <= max(sizes, default=0)


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8 to `path`, whole or not at all; see `encoded`."""
    write_bytes(path, encoded(text))


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON to `path`, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, sort_keys=False) + "\n")


def encoded(text: str) -> bytes:
    r"""`text` as UTF-8. What Python makes of a file name in other bytes, as Korean ZIP archives have them, is escaped.

    In JSON such an escape (`\udcb0`) is the character again when it is read.
    """
    return text.encode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    """`text` as it can be shown and sent anywhere: with escapes, as in `encoded`."""
    return encoded(text).decode("utf-8")


def sync(path: Path) -> None:
    """Make a file's contents durable, or the names in a folder: a rename is so only once its folder is synced too."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # shared folders of virtual machines and some network disks sync files, and refuse to sync folders
        if error.errno not in WITHOUT_SYNC or not stat.S_ISDIR(os.fstat(handle).st_mode):
            raise
    finally:
        os.close(handle)


@contextmanager
def report_write_errors(path: Path | None = None, settings: Mapping[str, Path] = RUNS_DIR) -> Iterator[None]:
    """Raise our errors instead of the system's where a path has no room, is no folder, or may not be used.

    Args:
        path: what is written; None for what the error itself names, which may also be what was read.
        settings: folders by what a user sets to choose them, an option for example. The error says to set the one whose
            folder the path is in; so does a `DiskFull` from within.

    Raises:
        DiskFull: there is no room.
        LabError: the path may not be used, or a file is where a folder should be; the text names it.
    """
    try:
        yield
    except DiskFull as error:
        if error.path is None:
            raise
        raise disk_full(error.path, settings) from error
    except Exception as error:
        number, name = _said_by_system(error)
        written = path or name
        if isinstance(error, LabError) or number is None or written is None:
            raise
        if number in OUT_OF_ROOM:
            raise disk_full(written, settings) from error
        # of what is written, of locks and of temporary files the folder
        named = written.parent if path or written.name.startswith(".") else written
        setting = _setting_of(named, settings)
        if number in NOT_WRITABLE:
            other = f", or set {setting} to another folder" if setting else ""
            raise LabError(f"{named}: {os.strerror(number)}. Change its permissions{other}.") from error
        there = next(each for each in (named, *named.parents) if os.path.lexists(each))
        if number in NO_FOLDER and not os.path.isdir(there):
            lost = os.path.islink(there)  # as one to a disk that is not mounted
            what = "is a link that leads nowhere. Mount its disk" if lost else "is no folder. Move it away"
            other = f", or set {setting} to a folder" if setting else ""
            raise LabError(f"{there} {what}{other}.") from error
        raise


def disk_full(path: Path, settings: Mapping[str, Path] = RUNS_DIR) -> DiskFull:
    """The error to raise where a write to `path` found no room; `settings` as for `report_write_errors`."""
    setting = _setting_of(path, settings)
    other = f", or set {setting} to a folder on a larger disk," if setting else ""
    return DiskFull(
        f"There is no room for {path.name} in {path.parent}. Free some space there{other} and run it again.", path
    )


def _said_by_system(error: Exception) -> tuple[int | None, Path | None]:
    """The system's number of an error, and the path that it names; None for what it does not say."""
    rust = _RUST_ERROR.search(str(error))
    number: Any = int(rust[1]) if rust else getattr(error, "errno", None)
    name: Any = rust[2] if rust else getattr(error, "filename", None)
    return number, Path(os.fsdecode(name)) if isinstance(name, str | bytes | os.PathLike) else None


def _setting_of(path: Path, settings: Mapping[str, Path]) -> str | None:
    """The setting whose folder contains `path`, or is below it; None if no setting fits."""
    place = path.absolute()
    for setting, folder in settings.items():
        if place.is_relative_to(folder.absolute()) or folder.absolute().is_relative_to(place):
            return setting
    return None


def read_file(path: Path, last: int | None = None) -> bytes:
    """The contents of a regular file.

    Args:
        last: only so many bytes at the end.

    Raises:
        OSError: it cannot be read, or is no regular file: reading a pipe would wait for a writer.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if last is not None:
            file.seek(max(0, found.st_size - last))
        return file.read()


def entries(folder: Path, pattern: str = "*") -> list[Path]:
    """What is in `folder` now, by name; nothing if there is no such folder.

    Look at the paths with `os.path.isdir`, `isfile` and `islink`, which never raise, unlike the methods of a path.

    Args:
        pattern: of the names that are wanted, as a shell's; `*` also matches names that begin with a dot.

    Raises:
        PermissionError: the folder may not be read.
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [folder / name for name in sorted(names) if fnmatchcase(name, pattern)]


def files_below(folder: Path, pattern: str = "*", *, regular: bool = True, follow_links: bool = False) -> list[Path]:
    """The files in `folder` and in the folders below it, by path.

    Args:
        pattern: as of `entries`.
        regular: without links that lead nowhere, named pipes and the like, which are not to be opened.
        follow_links: also below links to folders; a folder that is reached twice counts once.
    """
    found, seen = list[Path](), set[str]()
    for parent, folders, names in os.walk(folder, followlinks=follow_links):  # passes over what it cannot list
        if follow_links:
            folders.sort()
            if (place := os.path.realpath(parent)) in seen:
                folders.clear()
                continue
            seen.add(place)
        found += [Path(parent) / name for name in names if fnmatchcase(name, pattern)]
    return sorted(path for path in found if not regular or os.path.isfile(path))


def stat_if_possible(path: Path, *, follow: bool = True) -> os.stat_result | None:
    """The `os.stat` of `path`; None if it is gone or cannot be looked at.

    Args:
        follow: for a link, of its target.
    """
    try:
        return os.stat(path, follow_symlinks=follow)
    except OSError:
        return None


def is_older(path: Path, seconds: float) -> bool:
    """Whether `path` itself, not a link's target, was last modified that long ago; not if it is gone."""
    found = stat_if_possible(path, follow=False)
    return found is not None and time.time() - found.st_mtime >= seconds


def remove(path: Path) -> None:
    """Remove a file, a link (not its target) or a folder with all that is in it; nothing if it is gone already.

    Raises:
        OSError: it may not be removed.
    """
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, onerror=_unless_gone)
    else:
        path.unlink(missing_ok=True)


def _unless_gone(function: object, path: str, info: tuple[type[BaseException], BaseException, TracebackType]) -> None:
    if not isinstance(info[1], FileNotFoundError):
        raise info[1]


def remove_if_possible(path: Path) -> bool:
    """Remove `path` as `remove` does; where that fails, log it. Returns whether it is gone."""
    try:
        remove(path)
    except OSError as error:
        _log.warning("%s could not be removed: %s", path, error)
        return False
    return True


def sha256_of(path: Path) -> str:
    """The sha256 of a file's contents, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
