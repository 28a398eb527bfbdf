"""A place to drop a file, up to 2 GiB: it arrives in acknowledged pieces, since one message of its size would not.

    upload = Upload(accept=".png,.jpg")
    upload.observe(lambda change: print(change.new), "path")

Messages of the page: `{kind: "begin", id, name, size, field}`, then `{kind: "chunk", id, offset}` with the bytes, each
after the answer to the one before, and at any time `{kind: "cancel", id}`. Answers: `{kind: "ack", id, offset}` with
where the next piece begins, or `{kind: "refused", id}`, when `error` says why.
"""

import asyncio
from pathlib import Path
from typing import Any, ClassVar

import traitlets

from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import Words
from wanavatar_lab.ui.receiving import KINDS, Incoming
from wanavatar_lab.ui.tasks import start
from wanavatar_lab.ui.urls import can_show, server_path, server_root
from wanavatar_lab.ui.widget import LabWidget, script, styles

FOLDER = Path("data") / "uploads"  # below the server's root
CHUNK_BYTES = 4 * 1024**2

WORDS: dict[str, Words] = {
    "choose": {"en": "Choose a file…", "ko": "파일 선택…", "zh": "选择文件…"},
    "drop": {"en": "or drop it here", "ko": "또는 여기에 끌어다 놓으세요", "zh": "或拖放到此处"},
    "region": {"en": "Upload", "ko": "업로드", "zh": "上传"},
    "cancel": {"en": "Cancel upload", "ko": "업로드 취소", "zh": "取消上传"},
    "receiving": {
        "en": "{name}: {received} of {size}",
        "ko": "{name}: {size} 중 {received}",
        "zh": "{name}：{received} / {size}",
    },
    "checking": {"en": "{name}: being checked", "ko": "{name}: 확인하는 중", "zh": "{name}：正在检查"},
    "done": {"en": "{name}, {size}", "ko": "{name}, {size}", "zh": "{name}，{size}"},
    "failed": {"en": "Not uploaded", "ko": "업로드하지 못했습니다", "zh": "未能上传"},
    "cancelled": {"en": "Upload cancelled", "ko": "업로드를 취소했습니다", "zh": "已取消上传"},
    "silent": {
        "en": "No answer from the kernel for {seconds} s. If it is busy, wait for it and send the file again.",
        "ko": "커널이 {seconds}초 동안 응답하지 않습니다. 작업 중이라면 끝난 뒤 다시 보내세요.",
        "zh": "内核 {seconds} 秒没有响应。若它正忙，请等它空闲后重新发送。",
    },
}


class Upload(LabWidget):
    """A drop zone and a button.

    Args:
        accept: suffixes with commas, of `receiving.KINDS`.
        folder: where files go; `data/uploads` below the server's root if None.
        around: a class of what lies around it in the page, on all of which a file may be dropped. Then there is no
            button, and nothing is to be seen while nothing arrives.

    Attributes:
        path: the file, absolute, once it is whole and what it should be; empty otherwise.
        error: why there is none.
        field: the field of the form that it was dropped on; empty if on none.
        state: empty, receiving, checking, done, failed or cancelled.

    Raises:
        LabError: `accept` has a suffix of which nobody could say what is in the file.
    """

    _esm = script("upload")
    _css = styles("upload")
    WORDS: ClassVar[dict[str, Words]] = WORDS

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

    def __init__(
        self, accept: str = ".png,.jpg,.jpeg,.webp", folder: Path | str | None = None, around: str = ""
    ) -> None:
        suffixes = frozenset(part.strip().lower() for part in accept.split(","))
        if unknown := sorted(suffixes - set(KINDS)):
            raise LabError(
                f"Upload cannot check what a file in {unknown[0]!r} is; it knows {', '.join(sorted(KINDS))}."
            )
        self.folder = (server_root() / FOLDER if folder is None else Path(folder)).absolute()
        self._suffixes = suffixes
        self._incoming: Incoming | None = None
        self._id = self.field = ""
        super().__init__(accept=",".join(sorted(suffixes)), around=around)
        self.on_msg(self._hear)

    def close(self) -> None:
        """End the widget, and whatever was arriving."""
        if getattr(self, "_incoming", None) is not None:
            self._drop("cancelled", "")
        super().close()

    def _hear(self, _: Any, content: dict[str, Any], buffers: list[memoryview]) -> None:
        try:
            match content:
                case {"kind": "begin", "id": str(name), "name": str(file), "size": int(size)}:
                    self._begin(name, file, size, str(content.get("field", "")))
                case {"kind": "chunk", "id": self._id, "offset": int(offset)} if len(buffers) == 1:
                    self._take(offset, buffers[0])
                case {"kind": "cancel"} if self.state == "receiving":
                    self._drop("cancelled", "")
        except (LabError, OSError) as error:
            self._drop("failed", str(error))
            self.send({"kind": "refused", "id": self._id})

    def _begin(self, sending: str, file: str, size: int, field: str) -> None:
        if self.state == "checking":
            self.send({"kind": "refused", "id": sending})
            return
        # another view, or one that is gone, may have been sending
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
        if self._incoming.is_whole:
            self.state = "checking"
            start(self._finish(self._incoming))

    async def _finish(self, incoming: Incoming) -> None:
        try:
            # going through 2 GiB takes seconds, in which the kernel must answer others
            path = await asyncio.to_thread(incoming.finish)
        except (LabError, OSError) as error:
            self._drop("failed", str(error))
            self.send({"kind": "refused", "id": self._id})
            return
        self._incoming = None
        is_picture = KINDS[path.suffix] == "picture"
        with self.hold_sync():
            self.name, self.state, self.error = path.name, "done", ""
            self.preview = server_path(path) if is_picture and can_show(path) else ""
        self.path = str(path)

    def _drop(self, state: str, error: str) -> None:
        if self._incoming is not None:
            self._incoming.abandon()
            self._incoming = None
        self.path = ""
        with self.hold_sync():
            self.state, self.error, self.preview, self.received = state, error, "", 0
