"""Sample clips of a run side by side: before, after, and the true one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ipywidgets as widgets

from training.loop.sample_clips import FOLDER
from wanavatar_lab.errors import LabError
from wanavatar_lab.ui.elements import alert
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.player import Player

WIDEST = "720px"  # of two clips side by side, so that their controls are in sight with them
_TRUE = "true"

WORDS = read_words(__file__, "clips")


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

    @property
    def first(self) -> Path:
        """What was made first: by the base."""
        return self.made[min(self.made)]

    @property
    def last(self) -> Path:
        """What was made last."""
        return self.made[max(self.made)]


class SampleView(widgets.VBox):
    """The sample clips of a run that goes on: the base's beside the newest, or the base's beside the true one.

    Args:
        run: its folder.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._shown: list[tuple[Path, Path]] = []
        self._players: list[widgets.Widget] = []
        self._title = widgets.HTML()
        super().__init__()
        self._unfollow = language.follow(self._say)

    def look(self) -> None:
        """Show what is new; what is shown already stays as it is, and plays on."""
        found = sampled(self._run)
        pairs = [(each.first, each.last if len(each.made) > 1 else each.true) for each in found]
        if pairs == self._shown:
            return
        self._shown = pairs
        for each in self._players:
            each.close()
        self._players = side_by_side([(*pair, _labels(pair)) for pair in pairs])
        self.children = [self._title, *self._players] if pairs else []

    def close(self) -> None:
        """End it, with all players."""
        self.__dict__.pop("_unfollow", lambda: None)()
        for each in (self._title, *self._players):
            each.close()
        super().close()

    def _say(self) -> None:
        self._title.value = f'<strong lang="{language.code}">{language.of(WORDS["title"])}</strong>'
        for player, pair in zip(self._players, self._shown, strict=True):
            if isinstance(player, Player):
                player.labels = [*_labels(pair)]


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
            player = Player.pair(first, second, labels=labels)
            player.layout.max_width = WIDEST
            found.append(player)
        except LabError as error:
            found.append(widgets.HTML(alert(str(error))))
    return found


def label_of(clip: Path) -> str:
    """What stands under a sample clip: after which step it was made, or that it is the true one."""
    kind = clip.stem.partition("-")[0]
    if kind == _TRUE:
        return language.of(WORDS["true"])
    return language.of(WORDS["base" if int(kind) == 0 else "step"]).format(step=int(kind))


def _labels(pair: tuple[Path, Path]) -> tuple[str, str]:
    return label_of(pair[0]), label_of(pair[1])
