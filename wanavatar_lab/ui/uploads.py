"""Uploads: a drop zone for files of up to 2 GiB, which arrive in acknowledged chunks, as one message would not.

    upload = Upload(accept=".png,.jpg")
    upload.observe(lambda change: print(change.new), "path")

Messages of the page: `{kind: "begin", id, name, size, field}`, then `{kind: "chunk", id, offset}` with the bytes, each
after the answer to the one before, and at any time `{kind: "cancel", id}`. Answers: `{kind: "ack", id, offset}` with
where the next chunk begins, or `{kind: "refused", id}`, when `error` says why.

A file gets its name only when it is complete and checked: see `runs/uploads.py`.
"""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import traitlets

from wanavatar_lab.errors import LabError
from wanavatar_lab.runs.uploads import KINDS, Incoming, kind_of, uploads_folder
from wanavatar_lab.ui.language import read_words
from wanavatar_lab.ui.messages import in_language
from wanavatar_lab.ui.served_files import served_path
from wanavatar_lab.ui.widget import LabWidget, script, start, styles

CHUNK_BYTES = 4 * 1024**2  # a Jupyter server closes the connection at a message above 10 MiB


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
            self.preview = served_path(path) if kind_of(path) == "picture" else ""
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
