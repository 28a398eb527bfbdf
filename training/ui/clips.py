"""Sample clips of a run side by side: before, after, and the true one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ipywidgets as widgets

from training.sample_clips import FOLDER
from wanavatar_lab.errors import LabError
from wanavatar_lab.ui.fields.control import alert
from wanavatar_lab.ui.player import Player

_TRUE = "true"


@dataclass(frozen=True)
class Sampled:
    """The clips of one held-out sample.

    Attributes:
        name: of the sample.
        true: the clip as it is, through the VAE.
        made: what the run made of its sound, by step; 0 is the base.
    """

    name: str
    true: Path
    made: dict[int, Path]


def sampled(run: Path) -> list[Sampled]:
    """The sample clips of a run, by sample; those of which nothing is made yet are left out."""
    files = sorted((run / FOLDER).glob("*.mp4"))
    split = [(file, *file.stem.partition("-")[::2]) for file in files]
    found = []
    for true, kind, name in split:
        made = {int(step): file for file, step, other in split if other == name and step.isdecimal()}
        if kind == _TRUE and made:
            found.append(Sampled(name, true, made))
    return found


def side_by_side(pairs: Sequence[tuple[Path, Path, tuple[str, str]]]) -> list[widgets.Widget]:
    """Players of two clips each, in sync, with the sound of the first; why not, where a page cannot show them."""
    found: list[widgets.Widget] = []
    for first, second, labels in pairs:
        try:
            found.append(Player.pair(first, second, labels=labels))
        except LabError as error:
            found.append(widgets.HTML(alert(str(error))))
    return found
