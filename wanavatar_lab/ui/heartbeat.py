"""Says on the page when nobody is behind it any more: the kernel, or the server.

The page pings its kernel, which answers. Where no answer comes, the page asks the server about the kernel: a busy one
is left in peace, one that is gone or was started anew is said, with what to do.
"""

from typing import Any, ClassVar

import traitlets

from wanavatar_lab.requests import Words
from wanavatar_lab.ui.widget import LabWidget, script, styles

PATIENCE_SECONDS = 5.0

WORDS: dict[str, Words] = {
    "kernel": {
        "en": "The kernel behind this page has ended, so nothing here answers any more. Runs go on by themselves: "
        "reload the page, and they are shown again.",
        "ko": "이 페이지의 커널이 종료되어 더 이상 응답하지 않습니다. 실행은 계속되고 있으니 페이지를 새로 고치면 "
        "다시 표시됩니다.",
        "zh": "此页面的内核已结束，这里不再有响应。运行仍在继续：重新加载页面即可再次看到它们。",
    },
    "notebook": {
        "en": "The kernel behind this page has ended, so nothing here answers any more. Runs go on by themselves: "
        "run the notebook again, and they are shown again.",
        "ko": "이 페이지의 커널이 종료되어 더 이상 응답하지 않습니다. 실행은 계속되고 있으니 노트북을 다시 실행하면 "
        "다시 표시됩니다.",
        "zh": "此页面的内核已结束，这里不再有响应。运行仍在继续：重新运行笔记本即可再次看到它们。",
    },
    "server": {
        "en": "The server does not answer. Runs go on by themselves. Start it again if need be, then reload.",
        "ko": "서버가 응답하지 않습니다. 실행은 계속됩니다. 필요하면 서버를 다시 시작한 뒤 새로 고치세요.",
        "zh": "服务器没有响应。运行仍在继续。如有需要请重新启动服务器，然后重新加载。",
    },
    "reload": {"en": "Reload", "ko": "새로 고침", "zh": "重新加载"},
}


class Heartbeat(LabWidget):
    """Shows nothing as long as all is well.

    Args:
        patience: seconds in which an answer must come.
    """

    _esm = script("heartbeat")
    _css = styles("heartbeat")
    WORDS: ClassVar[dict[str, Words]] = WORDS

    patience = traitlets.Float(PATIENCE_SECONDS).tag(sync=True)
    kernel_id = traitlets.Unicode("").tag(sync=True)

    def __init__(self, patience: float = PATIENCE_SECONDS) -> None:
        super().__init__(patience=patience, kernel_id=_kernel_id())
        self.on_msg(self._hear)

    def _hear(self, _: Any, content: dict[str, Any], __: list[memoryview]) -> None:
        if content.get("kind") == "ping":
            self.send({"kind": "pong", "number": content.get("number")})


def _kernel_id() -> str:
    """The server's name of this kernel; "" outside of one."""
    from ipykernel.kernelapp import IPKernelApp

    if not IPKernelApp.initialized():
        return ""
    # servers name the connection file after the kernel
    name = str(IPKernelApp.instance().connection_file).rpartition("/")[2]
    return name.removeprefix("kernel-").removesuffix(".json")
