"""Evaluate a clip, or two side by side: the picture of `wanavatar-lab evaluate`, and both clips in sync.

panel = EvaluationPanel(clip="runs/…/talking.mp4", other="")
await panel.run()                 # measure now, if nobody is there to press
panel.found                       # the JSON of the command
print(panel.summary())            # its table
found = await evaluated(clip)     # the same of one clip, without a panel

The command runs in a process of its own, so that a kernel loads neither MediaPipe nor torch.
"""

import base64
import os
import tempfile
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import ipywidgets as widgets

from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import Request, fields_of
from wanavatar_lab.requests.field_spec import spec
from wanavatar_lab.requests.request import Described
from wanavatar_lab.ui.command import run_command
from wanavatar_lab.ui.elements import alert, bare, heading, refill, small
from wanavatar_lab.ui.file_field import FileControl
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.record import Record, joined, record_of
from wanavatar_lab.ui.served_files import can_show
from wanavatar_lab.ui.widget import LabBox, LanguageSwitch, Look, start

if TYPE_CHECKING:
    from wanavatar_lab.metrics.evaluate import Evaluation

WORDS = read_words(__file__, "evaluation")


class Clips(Described):
    """What the panel asks for."""

    clip: Annotated[str, spec(WORDS["clip"], WORDS["clip_help"], widget="video")]
    other: Annotated[str | None, spec(WORDS["other"], WORDS["other_help"], widget="video")] = None


class EvaluationPanel(LabBox):
    """Two files, a button, and what was measured.

    Args:
        clip: a clip, or a folder of clips.
        other: another one to compare with; empty for none.
        faces: what reads the faces, see `metrics.face_readers`.
        reference: a picture of the person; empty compares with the clip's first part.

    Attributes:
        found: what the command found, see `metrics.evaluate.Evaluation.to_json`; empty until then.
    """

    def __init__(self, clip: str = "", other: str = "", *, faces: str = "auto", reference: str = "") -> None:
        self._options = ["--faces", faces, *(["--reference", reference] if reference else [])]
        self.found: list[Mapping[str, Any]] = []
        views = fields_of(Clips)
        self._clip, self._other = (FileControl(views[name], Request) for name in ("clip", "other"))
        self._clip.value, self._other.value = clip or None, other or None
        self._title, self._notes, self._picture = (bare(widgets.HTML) for _ in range(3))
        self._title.add_class("wl-panel-title")
        self._button = bare(widgets.Button, "wl-run")
        self._players = bare(widgets.VBox)
        self._svg, self._problem = b"", ""
        head = widgets.HBox([self._title, LanguageSwitch()], _dom_classes=["wl-panel-head"])
        fields = bare(widgets.VBox, "wl-fields", children=[self._clip, self._other])
        parts = [Look(), head, fields, self._button, self._notes, self._picture, self._players]
        super().__init__(parts, _dom_classes=["wl-panel"])
        self._button.on_click(lambda _: start(self._pressed()))

    async def run(self) -> list[Mapping[str, Any]]:
        """Measure, and show what was found.

        Cancelling the wait (the stop button of a notebook, a cancelled task) ends the command.

        Raises:
            LabError: a clip cannot be measured; the text says why.
        """
        if not self._clip.value:
            raise LabError(f"clip: {WORDS['clip_help']['en']} Give the path of a file, or of a folder of clips.")
        clips = [self._clip.value, *([self._other.value] if self._other.value else [])]
        self._button.disabled, self._problem = True, ""
        self.show_words()
        try:
            self.found, self._svg = await _evaluated([*clips, *self._options])
        finally:
            self._button.disabled = False
            self.show_words()
        refill(self._players, *_players(clips))
        await self.keep()
        return self.found

    def record(self) -> Record:
        """What was measured, with the clips."""
        return joined(map(record_of, (self._title, self._notes, self._picture, *self._players.children)))

    def summary(self) -> str:
        """The table of the measures, and what could not be measured."""
        if not self.found:
            return "Nothing is measured yet: choose a clip, press the button, then run this cell again."
        from wanavatar_lab.metrics.evaluate import table  # slow to import, and a panel imports this module

        return "\n".join([*table([(each["clip"], each["other"]) for each in self.found]), *self._said()])

    def show_words(self) -> None:
        """Put every text into the language shown."""
        self._title.value = heading(3, WORDS.text("title"), WORDS.text("says"))
        self._button.description = WORDS.text("measuring" if self._button.disabled else "evaluate")
        said = alert(self._problem) if self._problem else "".join(map(small, self._said()))
        self._notes.value = said
        if self._svg:
            data = base64.b64encode(self._svg).decode("ascii")
            self._picture.value = (
                f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(WORDS.text("picture"), quote=True)}" '
                f'lang="{language.code}" style="max-width: 100%; background: white; border-radius: 6px">'
            )

    def _said(self) -> list[str]:
        clips = [clip for each in self.found for clip in (each["clip"], each["other"]) if clip]
        return [f"{Path(clip['clip']).name}: {note}" for clip in clips for note in clip["notes"]]

    async def _pressed(self) -> None:
        try:
            await self.run()
        except (LabError, OSError) as error:
            self._problem = str(error)
            self.show_words()


async def evaluated(clip: os.PathLike[str] | str, *, faces: str = "auto") -> "Evaluation":
    """`metrics.evaluate` of a clip, by the command.

    Cancelling the wait (the stop button of a notebook, a cancelled task) ends the command.

    Args:
        clip: a video, or an artifact.
        faces: what reads the faces, see `metrics.face_readers`.

    Raises:
        LabError: it cannot be measured; the text says why.
    """
    (found,) = await run_command("evaluate", os.fspath(clip), "--faces", faces)
    from wanavatar_lab.metrics.evaluate import Evaluation  # slow to import, and a panel imports this module

    return Evaluation.from_json(found["clip"])


async def _evaluated(words: list[str]) -> tuple[list[Mapping[str, Any]], bytes]:
    """What the command prints and draws."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.svg"
        found = await run_command("evaluate", *words, "--picture", str(picture))
        return found, picture.read_bytes()


def _players(clips: list[str]) -> list[widgets.Widget]:
    if not all(Path(clip).is_file() and can_show(clip) for clip in clips):
        return []
    from wanavatar_lab.ui.player import Player  # it reads media, which is slow to import

    return [Player(*clips)]
