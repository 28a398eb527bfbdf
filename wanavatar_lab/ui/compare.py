"""Two runs beside each other: what shows both, and what each is called there, which is what tells them apart.

Before and after: two pictures one over the other, and a handle that moves the edge between them.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import traitlets

from wanavatar_lab.errors import LabError
from wanavatar_lab.media import probe
from wanavatar_lab.requests import STAGE_REQUESTS, Words, fields_of
from wanavatar_lab.runs.run import Run
from wanavatar_lab.ui.form import titled
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.widget import LabWidget, script, server_path, styles

if TYPE_CHECKING:
    from wanavatar_lab.ui.player import Player


WORDS = read_words(__file__, "compare")


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


COMPARED = ("picture", "video")  # kinds of files of which two can be shown beside each other
MOST_TOLD = 4  # values that tell two runs apart
_SAME_SHAPE = 0.02  # by how much the ratio of width and height may differ between pictures that lie over one another

COMPARING_WORDS = read_words(__file__, "comparing")


def side_by_side(first: Path, second: Path, labels: tuple[str, str]) -> "Player | Compare":
    """Clips beside each other in sync; pictures of one shape over one another, with an edge to move, others beside.

    Raises:
        LabError: they are not of one kind, or the page cannot show one.
        MediaError: one is missing or damaged.
    """
    # what reads media takes a while to import, and a gallery is there before anyone compares
    from wanavatar_lab.media import probe
    from wanavatar_lab.ui.player import Player

    infos = [probe(path) for path in (first, second)]
    if all(info.kind == "picture" for info in infos):
        one, other = ((info.width or 1) / (info.height or 1) for info in infos)
        if abs(one / other - 1) < _SAME_SHAPE:
            return Compare(first, second, labels=labels)
    return Player.pair(first, second, labels=labels)


def told_apart(first: Run, second: Run) -> tuple[str, str]:
    """What each of two runs is called beside the other: its stage, or the values that differ, or when it was begun.

    Raises:
        RunError: the folder of one is gone or damaged.
    """
    if first.stage != second.stage or first.stage not in STAGE_REQUESTS:
        return _stage(first), _stage(second)
    kind = STAGE_REQUESTS[first.stage]
    asked = [_asked(run) for run in (first, second)]
    names = [name for name in fields_of(kind) if asked[0].get(name) != asked[1].get(name)][:MOST_TOLD]
    one, other = (titled(kind, {name: values.get(name) for name in names}) for values in asked)
    return (one, other) if one != other else (_begun(first), _begun(second))


def _asked(run: Run) -> dict[str, Any]:
    """What a run was asked for, with the seed that it really took."""
    asked: dict[str, Any] = run.read_json("request.json")
    seed = run.status().seed
    return asked | ({"seed": seed} if seed is not None and "seed" in asked else {})


def _stage(run: Run) -> str:
    known = STAGE_REQUESTS.get(run.stage)
    return language.of(known.labels) if known else run.stage


def _begun(run: Run) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.status().submitted_at))
    return f"{_stage(run)}, {when}"
