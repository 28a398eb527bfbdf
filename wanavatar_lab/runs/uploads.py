"""Files that people upload: each gets its name only when it is complete and checked.

    incoming = Incoming(uploads_folder(), "voice.wav", size, frozenset({".wav"}))
    incoming.write(0, data)
    path = incoming.finish()

Until then it has a hidden name in the same folder and is locked by the process that receives it, so that what a killed
process left behind differs from what still arrives.
"""

import itertools
import os
import secrets
import shutil
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from wanavatar_lab import locks
from wanavatar_lab.errors import DiskFull, LabError, MediaError
from wanavatar_lab.files import OUT_OF_ROOM, TEMPORARY, entries, is_older, remove_if_possible, sync
from wanavatar_lab.settings import read_settings

if TYPE_CHECKING:
    from wanavatar_lab.media import MediaInfo

# kind of a file by its suffix: what is shown, and what an upload may be
KINDS: dict[str, str] = {
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif"), "picture"),
    **dict.fromkeys((".avif", ".heic", ".heif"), "picture"),
    **dict.fromkeys((".wav", ".mp3", ".flac", ".ogg", ".opus", ".m4a", ".aac", ".aif", ".aiff", ".amr"), "audio"),
    **dict.fromkeys((".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".3gp"), "video"),
}
_PREFIX = ".upload-"
_LONGEST_NAME = 120  # bytes of UTF-8; file systems take 255, and numbers and suffixes are added
_FRESH = 60.0  # seconds in which a file may exist without being locked yet
_ABANDONED = 3600.0  # seconds in which a file that `whole_file` writes is written to, if its process lives


def kind_of(path: Path | str) -> str:
    """Kind of a file: picture, audio, video, or "" for any other suffix."""
    return KINDS.get(Path(path).suffix.lower(), "")


def uploads_folder() -> Path:
    """The folder of uploaded files, and of frames and voices taken from files."""
    return read_settings().server_root.absolute() / "data" / "uploads"


class Incoming:
    """A file while it arrives.

    Attributes:
        temporary: the hidden file until then.
        received: bytes so far.

    Args:
        folder: where it will be; made if it is missing.
        name: as the sender calls it; the file gets a safe form of it, numbered if the name is taken.
        size: bytes it will have; None if the sender does not say.
        accept: allowed suffixes, a subset of `KINDS`.

    Raises:
        LabError: the suffix or the size is not allowed, the disk has no room, or the folder takes no files; nothing is
            left behind.
    """

    def __init__(self, folder: Path, name: str, size: int | None, accept: frozenset[str]) -> None:
        self.name, self.size, self.received = safe_name(name), size, 0
        self._folder, self._accept = folder, accept
        suffix, self._largest = Path(self.name).suffix, read_settings().max_media_bytes
        if suffix not in accept:
            known = ", ".join(sorted(accept))
            raise LabError(f"{name} ends in {suffix or 'nothing'}; give a file that ends in {known}.")
        if size is not None:
            self._check_size(size)
        self.temporary = folder / f"{_PREFIX}{secrets.token_hex(6)}{suffix}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            remove_left_behind(folder)
            if shutil.disk_usage(folder).free < (size or 1):
                raise self._no_room()
            self._handle: int | None = locks.take(self.temporary, wait=True)
        except OSError as error:
            if error.errno in OUT_OF_ROOM:
                raise self._no_room() from error
            raise LabError(
                f"{self.name} cannot be kept in {folder}: {error.strerror}. Make that a folder which may be written to."
            ) from error

    def write(self, offset: int, data: bytes | memoryview) -> int:
        """Take the next chunk.

        Returns:
            How many bytes have arrived, where the next chunk begins.

        Raises:
            LabError: it is not the next chunk, is empty, goes beyond the end, or there is no room for it.
        """
        assert self._handle is not None, "nothing is written after `finish` or `abandon`"
        if self.size is None:
            self._check_size(offset + len(data))
        end = self._largest if self.size is None else self.size
        if offset != self.received or not 1 <= len(data) <= end - offset:
            raise LabError(
                f"{self.name}: a chunk of {len(data):,} bytes at {offset:,} does not follow the {self.received:,} "
                f"of {end:,} bytes received. Send the file again."
            )
        try:
            done = 0
            while done < len(data):  # a system may write fewer bytes than given
                done += os.pwrite(self._handle, data[done:], offset + done)
        except OSError as error:
            raise self._no_room() if error.errno in OUT_OF_ROOM else error from error
        self.received += len(data)
        return self.received

    def finish(self, info: "MediaInfo | None" = None) -> Path:
        """Check what it is, and give it its name.

        Args:
            info: what `probe` says of `temporary`, where another process has looked into it.

        Raises:
            MediaError: it is damaged, or not what its name says; nothing is left behind.
        """
        from wanavatar_lab.media import probe  # slow to import

        try:
            if self._handle is None or not self.received or (self.size is not None and self.received < self.size):
                whole = "" if self.size is None else f" of {self.size:,}"
                raise LabError(f"{self.name} is not complete: {self.received:,}{whole} bytes have arrived.")
            os.fsync(self._handle)
            try:
                info = info or probe(self.temporary)
            except MediaError as error:
                raise MediaError(str(error).replace(str(self.temporary), self.name)) from None
            named = kind_of(self.name)
            # a recording is often kept in a container that could hold a picture too
            if info.kind != named and (named, info.kind) != ("video", "audio"):
                raise MediaError(f"{self.name} is named like {_a(named)} and is {_a(info.kind)}. Rename it.")
            wanted = sorted({KINDS[suffix] for suffix in self._accept})
            if info.kind not in wanted:
                raise MediaError(f"{self.name} is {_a(info.kind)}; give {' or '.join(map(_a, wanted))}.")
            with locks.locked(self._folder / ".names.lock"):  # between looking for a free name and taking it
                target = free_name(self._folder, self.name)
                os.replace(self.temporary, target)
            sync(self._folder)
            return target
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Remove what has arrived; does nothing after `finish`."""
        if self._handle is not None:
            self.temporary.unlink(missing_ok=True)
            locks.drop(self._handle)
            self._handle = None

    def _check_size(self, size: int) -> None:
        if not 1 <= size <= self._largest:
            raise LabError(
                f"{self.name} has {size:,} bytes; a file must have 1 to {self._largest:,} (WANAVATAR_MAX_MEDIA_BYTES)."
            )

    def _no_room(self) -> DiskFull:
        size = self.received if self.size is None else self.size
        return DiskFull(f"There is no room for the {size:,} bytes of {self.name} in {self._folder}. Free some.")


def remove_left_behind(folder: Path) -> None:
    """Remove what was arriving when the process that received it died, and what tools were writing when theirs did."""
    for path in entries(folder, f"{_PREFIX}*"):
        # not one that has arrived meanwhile; and only a regular file is opened: opening a pipe would block
        if is_older(path, _FRESH) and not (os.path.isfile(path) and locks.is_locked(path)):
            remove_if_possible(path)
    for path in entries(folder, ".*"):
        if TEMPORARY.fullmatch(path.name) and is_older(path, _ABANDONED):
            remove_if_possible(path)


def safe_name(name: str) -> str:
    """A file name without folders, controls or characters special to URLs or shells; letters of any script stay."""
    plain = unicodedata.normalize("NFC", name).replace("\\", "/").rpartition("/")[2]
    plain = "".join(char if char.isalnum() or char in " ._-()" else "_" for char in plain).strip(" .")
    stem, suffix = os.path.splitext(plain)
    short = stem.encode()[:_LONGEST_NAME].decode(errors="ignore").strip(" .")
    return (short or "file") + suffix.lower()[:16]


def free_name(folder: Path, name: str) -> Path:
    """`name` in `folder`, with a number if files of that name exist."""
    numbered = (f"{Path(name).stem}-{number}{Path(name).suffix}" for number in itertools.count(2))
    # a link that leads nowhere is no free name either
    return next(folder / free for free in itertools.chain([name], numbered) if not os.path.lexists(folder / free))


def _a(kind: str) -> str:
    return f"an {kind} file" if kind == "audio" else f"a {kind}"
