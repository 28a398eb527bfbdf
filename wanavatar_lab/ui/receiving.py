"""A file that arrives in pieces: under its name only when it is whole and what it should be, else nowhere.

Until then it lies in the same folder under a hidden name, locked by the process that receives it, so that what a
killed kernel left behind is told from what is still arriving.
"""

import os
import secrets
import shutil
import time
import unicodedata
from pathlib import Path

from wanavatar_lab import locks
from wanavatar_lab.errors import DiskFull, LabError, MediaError
from wanavatar_lab.files import OUT_OF_ROOM, sync
from wanavatar_lab.settings import read_settings

KINDS: dict[str, str] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"), "picture"),
    **dict.fromkeys((".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac"), "audio"),
    **dict.fromkeys((".mp4", ".mov", ".mkv", ".webm", ".avi"), "video"),
}
_PREFIX = ".upload-"
_LONGEST_NAME = 120  # bytes of UTF-8; file systems take 255, and numbers and suffixes are added
_FRESH = 60.0  # seconds in which a file may exist and not be locked yet


class Incoming:
    """One file on its way.

    Args:
        folder: where it will lie; made if it is missing.
        name: as the sender calls it; the file gets a safe form of it, numbered if the name is taken.
        size: bytes it will have.
        accept: suffixes that are allowed, a subset of `KINDS`.

    Raises:
        LabError: the suffix or the size is not allowed, or the disk has no room; nothing is left behind.
    """

    def __init__(self, folder: Path, name: str, size: int, accept: frozenset[str]) -> None:
        self.name, self.size, self.received = safe_name(name), size, 0
        self._folder, self._accept = folder, accept
        suffix, largest = Path(self.name).suffix, read_settings().max_media_bytes
        if suffix not in accept:
            raise LabError(
                f"{name} ends in {suffix or 'nothing'}; give a file that ends in {', '.join(sorted(accept))}."
            )
        if not 1 <= size <= largest:
            raise LabError(f"{name} has {size:,} bytes; a file must have 1 to {largest:,} (WANAVATAR_MAX_MEDIA_BYTES).")
        folder.mkdir(parents=True, exist_ok=True)
        remove_left_behind(folder)
        if shutil.disk_usage(folder).free < size:
            raise self._no_room()
        self._temporary = folder / f"{_PREFIX}{secrets.token_hex(6)}{suffix}"
        self._handle: int | None = locks.take(self._temporary, wait=True)

    @property
    def is_whole(self) -> bool:
        """Whether every byte is here."""
        return self.received == self.size

    def write(self, offset: int, data: bytes | memoryview) -> int:
        """Take the next piece.

        Returns:
            How many bytes are here now, where the next piece begins.

        Raises:
            LabError: it is not the next piece, is empty, goes beyond the end, or finds no room.
        """
        if self._handle is None:
            raise LabError(f"{self.name} is not being received any more. Send it again.")
        if offset != self.received or not 1 <= len(data) <= self.size - offset:
            raise LabError(
                f"{self.name}: a piece of {len(data):,} bytes at {offset:,} does not follow on the {self.received:,} "
                f"of {self.size:,} bytes that are here. Send the file again."
            )
        try:
            done = 0
            while done < len(data):  # a system may write less than it was asked to
                done += os.pwrite(self._handle, data[done:], offset + done)
        except OSError as error:
            raise self._no_room() if error.errno in OUT_OF_ROOM else error from error
        self.received += len(data)
        return self.received

    def finish(self) -> Path:
        """See what it is, and give it its name.

        Raises:
            MediaError: it is damaged, or not what its name says; nothing is left behind.
        """
        try:
            if self._handle is None or not self.is_whole:
                raise LabError(f"{self.name} is not whole: {self.received:,} of {self.size:,} bytes are here.")
            os.fsync(self._handle)
            self._check()
            with locks.locked(self._folder / ".names.lock"):  # between looking for a free name and taking it
                target = free_name(self._folder, self.name)
                os.replace(self._temporary, target)
            sync(self._folder)
            return target
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Leave nothing of it; does nothing after a `finish`."""
        if self._handle is not None:
            self._temporary.unlink(missing_ok=True)
            locks.drop(self._handle)
            self._handle = None

    def _check(self) -> None:
        from wanavatar_lab.media import probe  # takes a while to import, for which no panel is to wait

        try:
            info = probe(self._temporary)
        except MediaError as error:
            raise MediaError(str(error).replace(str(self._temporary), self.name)) from None
        said = KINDS[Path(self.name).suffix]
        # a recording is often kept in a container that could hold a picture too
        if info.kind != said and (said, info.kind) != ("video", "audio"):
            raise MediaError(f"{self.name} is named like {_a(said)} and is {_a(info.kind)}. Rename it.")
        wanted = sorted({KINDS[suffix] for suffix in self._accept})
        if info.kind not in wanted:
            raise MediaError(f"{self.name} is {_a(info.kind)}; give {' or '.join(map(_a, wanted))}.")

    def _no_room(self) -> DiskFull:
        return DiskFull(f"There is no room for the {self.size:,} bytes of {self.name} in {self._folder}. Free some.")


def safe_name(name: str) -> str:
    """A name without a folder, controls or characters that mean something in addresses or shells; it keeps letters."""
    plain = unicodedata.normalize("NFC", name).replace("\\", "/").rpartition("/")[2]
    plain = "".join(char if char.isalnum() or char in " ._-()" else "_" for char in plain).strip(" .")
    stem, suffix = os.path.splitext(plain)
    suffix = suffix.lower()[:16]
    short = stem.encode()[:_LONGEST_NAME].decode(errors="ignore").strip(" .")
    return (short or "file") + suffix


def free_name(folder: Path, name: str) -> Path:
    """`name` in `folder`, with a number where files of that name are there."""
    path, number = folder / name, 1
    while path.exists():
        number += 1
        path = folder / f"{Path(name).stem}-{number}{Path(name).suffix}"
    return path


def remove_left_behind(folder: Path) -> None:
    """Remove what was arriving when the process that received it died."""
    for path in folder.glob(f"{_PREFIX}*"):
        if time.time() - path.stat().st_mtime > _FRESH and not locks.is_locked(path):
            path.unlink()


def _a(kind: str) -> str:
    return f"an {kind} file" if kind == "audio" else f"a {kind}"
