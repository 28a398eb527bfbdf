"""Sample clips of a run side by side: made by the base model, made by the latest step, and the original."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import ipywidgets as widgets

from training.loop.run_folder import CLIPS
from wanavatar_lab.errors import LabError
from wanavatar_lab.ui.elements import alert
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.player import Player

WIDEST = "720px"  # of two clips side by side; wider, their controls would be below the fold
_TRUE = "true"

WORDS = read_words(__file__, "clips")


@dataclass(frozen=True)
class Sampled:
    """The clips of one held-out sample.

    Attributes:
        name: of the sample.
        true: the original clip, decoded from its latents.
        made: clips generated from its sound, by step; step 0 is the base model.
    """

    name: str
    true: Path
    made: dict[int, Path]

    @property
    def first(self) -> Path:
        """The clip of the earliest step, which is the base model's."""
        return self.made[min(self.made)]

    @property
    def last(self) -> Path:
        """The clip of the latest step."""
        return self.made[max(self.made)]


def sampled(run: Path) -> list[Sampled]:
    """The generated sample clips of a run, grouped by sample; samples without a clip are left out."""
    split = [(file, *file.stem.partition("-")[::2]) for file in sorted((run / CLIPS).glob("*.mp4"))]
    found = []
    for true, kind, name in split:
        made = {int(step): file for file, step, other in split if other == name and step.isdecimal()}
        if kind == _TRUE and made:
            found.append(Sampled(name, true, made))
    return found


def side_by_side(pairs: Sequence[tuple[Path, Path, tuple[str, str]]]) -> list[widgets.Widget]:
    """Players of (first, second, labels), in sync, with the sound of the first; an error for files out of reach."""
    found: list[widgets.Widget] = []
    for first, second, labels in pairs:
        try:
            player = Player(first, second, labels=labels)
            player.layout.max_width = WIDEST
            found.append(player)
        except LabError as error:
            found.append(widgets.HTML(alert(str(error))))
    return found


def labels_of(pair: tuple[Path, Path]) -> tuple[str, str]:
    """Captions of two sample clips: the step that made each, or that it is the original."""

    def label(clip: Path) -> str:
        kind = clip.stem.partition("-")[0]
        if kind == _TRUE:
            return language.of(WORDS["true"])
        return language.of(WORDS["step" if int(kind) else "base"]).format(step=int(kind))

    return label(pair[0]), label(pair[1])


class SampleView(widgets.VBox):
    """The sample clips of a run in progress: the base model's beside the latest, or beside the original at first.

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
        """Show new clips; if there are none, players are left alone and keep playing."""
        pairs = [(each.first, each.last if len(each.made) > 1 else each.true) for each in sampled(self._run)]
        if pairs == self._shown:
            return
        self._shown = pairs
        for each in self._players:
            each.close()
        self._players = side_by_side([(*pair, labels_of(pair)) for pair in pairs])
        self.children = [self._title, *self._players] if pairs else []

    def close(self) -> None:
        """Close it with its players."""
        self.__dict__.pop("_unfollow", lambda: None)()
        for each in (self._title, *self._players):
            each.close()
        super().close()

    def _say(self) -> None:
        self._title.value = f'<strong lang="{language.code}">{language.of(WORDS["title"])}</strong>'
        for player, pair in zip(self._players, self._shown, strict=True):
            if isinstance(player, Player):
                player.labels = [*labels_of(pair)]
