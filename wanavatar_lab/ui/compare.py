"""Before and after: two pictures one over the other, and a handle that moves the edge between them."""

from pathlib import Path
from typing import ClassVar

import traitlets

from wanavatar_lab.errors import LabError
from wanavatar_lab.media import probe
from wanavatar_lab.requests import Words
from wanavatar_lab.ui.urls import server_path
from wanavatar_lab.ui.widget import LabWidget, script, styles

WORDS: dict[str, Words] = {
    "before": {"en": "Before", "ko": "이전", "zh": "之前"},
    "after": {"en": "After", "ko": "이후", "zh": "之后"},
    "edge": {
        "en": "Edge between before and after",
        "ko": "이전과 이후의 경계",
        "zh": "前后对比的分界",
    },
    "broken": {"en": "{name} cannot be shown.", "ko": "{name}을(를) 표시할 수 없습니다.", "zh": "无法显示 {name}。"},
}


class Compare(LabWidget):
    """Two pictures of one shape; sizes may differ, as before and after upscaling.

    Args:
        before, after: pictures below the server's root.
        labels: what each is called; before and after if None.

    Attributes:
        at: where the edge is, in percent from the left.

    Raises:
        LabError: the page cannot show one of them, or one is no picture.
        MediaError: one is missing or damaged.
    """

    _esm = script("compare")
    _css = styles("compare")
    WORDS: ClassVar[dict[str, Words]] = WORDS

    before = traitlets.Unicode("").tag(sync=True)
    after = traitlets.Unicode("").tag(sync=True)
    labels = traitlets.List(traitlets.Unicode()).tag(sync=True)
    sizes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    ratio = traitlets.Float(1.0).tag(sync=True)
    at = traitlets.Float(50.0, min=0.0, max=100.0).tag(sync=True)

    def __init__(self, before: Path | str, after: Path | str, *, labels: tuple[str, str] | None = None) -> None:
        infos = [probe(path) for path in (before, after)]
        for path, info in zip((before, after), infos, strict=True):
            if info.kind != "picture":
                raise LabError(f"{path} is a file of kind {info.kind}; give a picture, or two clips to Player.pair.")
        width, height = infos[1].width or 1, infos[1].height or 1
        super().__init__(
            before=server_path(before),
            after=server_path(after),
            labels=list(labels or ()),
            sizes=[f"{info.width} × {info.height}" for info in infos],
            ratio=width / height,
        )
