"""Uploads: a drop zone for files of up to 2 GiB, which arrive in acknowledged chunks, as one message would not.

    upload = Upload(accept=".png,.jpg")
    upload.observe(lambda change: print(change.new), "path")

Messages of the page: `{kind: "begin", id, name, size, field}`, then `{kind: "chunk", id, offset}` with the bytes, each
after the answer to the one before, and at any time `{kind: "cancel", id}`. Answers: `{kind: "ack", id, offset}` with
where the next chunk begins, or `{kind: "refused", id}`, when `error` says why.

A file gets its name only when it is complete and checked. Until then it has a hidden name in the same folder and is
locked by the process that receives it, so that what a killed kernel left behind differs from what still arrives.
"""

import asyncio
import itertools
import os
import secrets
import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import traitlets

from wanavatar_lab import locks
from wanavatar_lab.errors import DiskFull, LabError, MediaError
from wanavatar_lab.files import OUT_OF_ROOM, entries, is_older, remove_if_possible, sync
from wanavatar_lab.settings import read_settings
from wanavatar_lab.ui.language import read_words
from wanavatar_lab.ui.messages import in_language
from wanavatar_lab.ui.served_files import KINDS, can_show, kind_of, server_path, uploads_folder
from wanavatar_lab.ui.widget import LabWidget, script, start, styles

CHUNK_BYTES = 4 * 1024**2  # a Jupyter server closes the connection at a message above 10 MiB
_PREFIX = ".upload-"
_LONGEST_NAME = 120  # bytes of UTF-8; file systems take 255, and numbers and suffixes are added
_FRESH = 60.0  # seconds in which a file may exist without being locked yet


class Upload(LabWidget):
    """A drop zone and a button.

    Args:
        accept: suffixes of `KINDS`, separated by commas.
        folder: where files are put; the folder of uploads if None.
        around: a class of an element around it in the page, on all of which files may be dropped. Then there is no
            button, and it is visible only while a file arrives.

    Attributes:
        path: the file, absolute, once it is complete and checked; empty otherwise.
        error: why there is none.
        field: the field of the form that it was dropped on; empty if on none.
        state: empty, receiving, checking, done, failed or cancelled.

    Raises:
        LabError: `accept` has a suffix whose files cannot be checked.
    """

    _esm = script("dragging", "upload")
    _css = styles("upload")
    WORDS = read_words(__file__, "uploads")

    path = traitlets.Unicode("")
    error = traitlets.Unicode("").tag(sync=True)
    state = traitlets.Unicode("empty").tag(sync=True)
    accept = traitlets.Unicode("").tag(sync=True)
    name = traitlets.Unicode("").tag(sync=True)
    size = traitlets.Int(0).tag(sync=True)
    received = traitlets.Int(0).tag(sync=True)
    preview = traitlets.Unicode("").tag(sync=True)
    chunk_bytes = traitlets.Int(CHUNK_BYTES).tag(sync=True)
    around = traitlets.Unicode("").tag(sync=True)

    def __init__(self, accept: str, folder: Path | str | None = None, around: str = "") -> None:
        self._suffixes = frozenset(part.strip().lower() for part in accept.split(","))
        if unknown := sorted(self._suffixes - set(KINDS)):
            known = ", ".join(sorted(KINDS))
            raise LabError(f"Upload cannot check what a file in {unknown[0]!r} is; it knows {known}.")
        self.folder = (uploads_folder() if folder is None else Path(folder)).absolute()
        self._incoming: Incoming | None = None
        self._id = self.field = ""
        super().__init__(accept=",".join(sorted(self._suffixes)), around=around)

    def close(self) -> None:
        """Close the widget, and drop a file that is still arriving."""
        if getattr(self, "_incoming", None) is not None:  # __del__ closes also a widget whose __init__ raised
            self._drop("cancelled", "")
        super().close()

    def receive(self, content: Mapping[str, Any], buffers: Sequence[memoryview] = ()) -> None:
        """Take the next message of the protocol above."""
        try:
            match content:
                case {"kind": "begin", "id": str(name), "name": str(file), "size": int(size)}:
                    self._begin(name, file, size, str(content.get("field", "")))
                case {"kind": "chunk", "id": self._id, "offset": int(offset)} if len(buffers) == 1:
                    self._take(offset, buffers[0])
                case {"kind": "cancel"} if self.state == "receiving":
                    self._drop("cancelled", "")
        except (LabError, OSError) as error:
            self._fail(error)

    def _begin(self, sending: str, file: str, size: int, field: str) -> None:
        if self.state == "checking":
            self.send({"kind": "refused", "id": sending})
            return
        # another view, or one that was closed, may have been sending
        self._drop("empty", "")
        self._id, self.field = sending, field
        self._incoming = Incoming(self.folder, file, size, self._suffixes)
        with self.hold_sync():
            self.name, self.size, self.received, self.state = self._incoming.name, size, 0, "receiving"
        self.send({"kind": "ack", "id": sending, "offset": 0})

    def _take(self, offset: int, data: memoryview) -> None:
        if self._incoming is None:
            # cancelled in another view, or refused: `state` and `error` say which
            self.send({"kind": "refused", "id": self._id})
            return
        self.received = self._incoming.write(offset, data)
        self.send({"kind": "ack", "id": self._id, "offset": self.received})
        if self.received == self._incoming.size:
            self.state = "checking"
            start(self._finish(self._incoming))

    async def _finish(self, incoming: "Incoming") -> None:
        try:
            # reading 2 GiB takes seconds, in which the kernel must stay responsive
            path = await asyncio.to_thread(incoming.finish)
        except (LabError, OSError) as error:
            self._fail(error)
            return
        self._incoming = None
        with self.hold_sync():
            self.name, self.state, self.error = path.name, "done", ""
            self.preview = server_path(path) if kind_of(path) == "picture" and can_show(path) else ""
        self.path = str(path)

    def _fail(self, error: Exception) -> None:
        self._drop("failed", in_language(str(error)))
        self.send({"kind": "refused", "id": self._id})

    def _drop(self, state: str, error: str) -> None:
        if self._incoming is not None:
            self._incoming.abandon()
        self._incoming, self.path = None, ""
        with self.hold_sync():
            self.state, self.error, self.preview, self.received = state, error, "", 0


class Incoming:
    """A file while it arrives.

    Args:
        folder: where it will be; made if it is missing.
        name: as the sender calls it; the file gets a safe form of it, numbered if the name is taken.
        size: bytes it will have.
        accept: allowed suffixes, a subset of `KINDS`.

    Raises:
        LabError: the suffix or the size is not allowed, or the disk has no room; nothing is left behind.
    """

    def __init__(self, folder: Path, name: str, size: int, accept: frozenset[str]) -> None:
        self.name, self.size, self.received = safe_name(name), size, 0
        self._folder, self._accept = folder, accept
        suffix, largest = Path(self.name).suffix, read_settings().max_media_bytes
        if suffix not in accept:
            known = ", ".join(sorted(accept))
            raise LabError(f"{name} ends in {suffix or 'nothing'}; give a file that ends in {known}.")
        if not 1 <= size <= largest:
            raise LabError(f"{name} has {size:,} bytes; a file must have 1 to {largest:,} (WANAVATAR_MAX_MEDIA_BYTES).")
        folder.mkdir(parents=True, exist_ok=True)
        remove_left_behind(folder)
        if shutil.disk_usage(folder).free < size:
            raise self._no_room()
        self._temporary = folder / f"{_PREFIX}{secrets.token_hex(6)}{suffix}"
        self._handle: int | None = locks.take(self._temporary, wait=True)

    def write(self, offset: int, data: bytes | memoryview) -> int:
        """Take the next chunk.

        Returns:
            How many bytes have arrived, where the next chunk begins.

        Raises:
            LabError: it is not the next chunk, is empty, goes beyond the end, or there is no room for it.
        """
        assert self._handle is not None, "nothing is written after `finish` or `abandon`"
        if offset != self.received or not 1 <= len(data) <= self.size - offset:
            raise LabError(
                f"{self.name}: a chunk of {len(data):,} bytes at {offset:,} does not follow the {self.received:,} "
                f"of {self.size:,} bytes received. Send the file again."
            )
        try:
            done = 0
            while done < len(data):  # a system may write fewer bytes than given
                done += os.pwrite(self._handle, data[done:], offset + done)
        except OSError as error:
            raise self._no_room() if error.errno in OUT_OF_ROOM else error from error
        self.received += len(data)
        return self.received

    def finish(self) -> Path:
        """Check what it is, and give it its name.

        Raises:
            MediaError: it is damaged, or not what its name says; nothing is left behind.
        """
        from wanavatar_lab.media import probe  # slow to import

        try:
            if self._handle is None or self.received < self.size:
                raise LabError(f"{self.name} is not complete: {self.received:,} of {self.size:,} bytes have arrived.")
            os.fsync(self._handle)
            try:
                info = probe(self._temporary)
            except MediaError as error:
                raise MediaError(str(error).replace(str(self._temporary), self.name)) from None
            named = kind_of(self.name)
            # a recording is often kept in a container that could hold a picture too
            if info.kind != named and (named, info.kind) != ("video", "audio"):
                raise MediaError(f"{self.name} is named like {_a(named)} and is {_a(info.kind)}. Rename it.")
            wanted = sorted({KINDS[suffix] for suffix in self._accept})
            if info.kind not in wanted:
                raise MediaError(f"{self.name} is {_a(info.kind)}; give {' or '.join(map(_a, wanted))}.")
            with locks.locked(self._folder / ".names.lock"):  # between looking for a free name and taking it
                target = free_name(self._folder, self.name)
                os.replace(self._temporary, target)
            sync(self._folder)
            return target
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Remove what has arrived; does nothing after `finish`."""
        if self._handle is not None:
            self._temporary.unlink(missing_ok=True)
            locks.drop(self._handle)
            self._handle = None

    def _no_room(self) -> DiskFull:
        return DiskFull(f"There is no room for the {self.size:,} bytes of {self.name} in {self._folder}. Free some.")


def remove_left_behind(folder: Path) -> None:
    """Remove what was arriving when the process that received it died."""
    for path in entries(folder, f"{_PREFIX}*"):
        # not one that has arrived meanwhile; and only a regular file is opened: opening a pipe would block
        if is_older(path, _FRESH) and not (os.path.isfile(path) and locks.is_locked(path)):
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
    return next(folder / free for free in itertools.chain([name], numbered) if not (folder / free).exists())


def _a(kind: str) -> str:
    return f"an {kind} file" if kind == "audio" else f"a {kind}"
