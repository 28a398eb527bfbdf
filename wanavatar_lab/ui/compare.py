"""Two results beside each other: two pictures with a movable edge between them, or two clips in sync."""

import time
from pathlib import Path
from typing import Any

import traitlets

from wanavatar_lab.errors import LabError
from wanavatar_lab.media import probe
from wanavatar_lab.requests import STAGE_REQUESTS, fields_of
from wanavatar_lab.runs.run import Run
from wanavatar_lab.ui.form import labelled
from wanavatar_lab.ui.language import read_words, stage_name
from wanavatar_lab.ui.served_files import server_path
from wanavatar_lab.ui.widget import LabWidget, script, styles

MOST_DIFFERENCES = 4  # values in the label of a run; more would not fit below a clip
SAME_RATIO = 0.02  # relative difference of width/height up to which pictures are overlaid: sides are rounded to pixels


class Compare(LabWidget):
    """Two pictures of one shape; sizes may differ, as before and after upscaling.

    Args:
        before, after: pictures below the server's root.
        labels: names of both; "Before" and "After" if None.

    Attributes:
        at: position of the edge, in percent from the left.

    Raises:
        LabError: the page cannot show one of them, or one is no picture.
        MediaError: one is missing or damaged.
    """

    _esm = script("compare")
    _css = styles("compare")
    WORDS = read_words(__file__, "compare")

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


def side_by_side(first: Path, second: Path, labels: tuple[str, str]) -> LabWidget:
    """Clips beside each other in sync; pictures of one shape overlaid with a movable edge, others beside each other.

    Raises:
        LabError: they are not of one kind, or the page cannot show one.
        MediaError: one is missing or damaged.
    """
    from wanavatar_lab.ui.player import Player

    infos = [probe(path) for path in (first, second)]
    if all(info.kind == "picture" for info in infos):
        one, other = ((info.width or 1) / (info.height or 1) for info in infos)
        if abs(one / other - 1) < SAME_RATIO:
            return Compare(first, second, labels=labels)
    return Player.pair(first, second, labels=labels)


def pair_labels(first: Run, second: Run) -> tuple[str, str]:
    """Labels that distinguish two runs: their stages, or the values that differ, or when they were submitted.

    Raises:
        RunError: the folder of one is gone or damaged.
    """
    if first.stage != second.stage or first.stage not in STAGE_REQUESTS:
        return stage_name(first.stage), stage_name(second.stage)
    kind = STAGE_REQUESTS[first.stage]
    asked = [_request_with_seed(run) for run in (first, second)]
    names = [name for name in fields_of(kind) if asked[0].get(name) != asked[1].get(name)][:MOST_DIFFERENCES]
    one, other = (labelled(kind, {name: values.get(name) for name in names}) for values in asked)
    return (one, other) if one != other else (_stage_and_time(first), _stage_and_time(second))


def _request_with_seed(run: Run) -> dict[str, Any]:
    """The request of a run, with the seed that was drawn."""
    asked: dict[str, Any] = run.read_json("request.json")
    seed = run.status().seed
    return asked | ({"seed": seed} if seed is not None and "seed" in asked else {})


def _stage_and_time(run: Run) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(run.status().submitted_at))
    return f"{stage_name(run.stage)}, {when}"
