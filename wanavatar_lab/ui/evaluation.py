"""Evaluate a clip, or two side by side: the table and the curves of `wanavatar-lab evaluate`, and both clips in sync.

panel = EvaluationPanel(clip="runs/…/talking.mp4", other="")
await panel.run()                 # measure now, if nobody is there to press
panel.found                       # the JSON of the command
print(panel.summary())            # its table
found = await evaluated(clip)     # the same of one clip, without a panel
shown(lip_plots(panel.found))     # the opening of the mouth against the loudness

The command runs in a process of its own, so that a kernel loads neither MediaPipe nor torch.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from itertools import pairwise
from pathlib import Path
from statistics import median
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
from wanavatar_lab.ui.messages import add_messages, in_language
from wanavatar_lab.ui.record import Record, joined, record_of
from wanavatar_lab.ui.served_files import can_show, is_sent
from wanavatar_lab.ui.widget import LabBox, LanguageSwitch, Look, start

if TYPE_CHECKING:
    from wanavatar_lab.metrics.evaluate import Evaluation
    from wanavatar_lab.ui.plots import Plot

Found = Sequence[Mapping[str, Any]]  # of each clip, and of the one that it is compared with: the JSON of the command

WORDS, MEASURE_WORDS = read_words(__file__, "evaluation"), read_words(__file__, "measures")
add_messages(__file__, "evaluation_notes")
# twice the class, since notebooks have rules of their own for tables
_LOOK = (
    ".wl-measures.wl-measures { border-collapse: collapse; margin: 8px 0 }"
    ".wl-measures.wl-measures :is(th, td) { padding: 3px 18px 3px 4px; text-align: left; font-weight: 400 }"
    ".wl-measures.wl-measures :is(td, thead th + th) { text-align: right; font-variant-numeric: tabular-nums }"
    ".wl-measures.wl-measures thead th { font-weight: 600; overflow-wrap: anywhere }"
    ".wl-measures.wl-measures tr + tr :is(th, td) { border-top: 1px solid #8883 }"
)


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
        self._svg, self._problem = b"", ""  # the picture of several clips
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
        """Put every text into the language shown, those of the table and of the plots too."""
        self._title.value = heading(3, WORDS.text("title"), WORDS.text("says"))
        self._button.description = WORDS.text("measuring" if self._button.disabled else "evaluate")
        said = alert(self._problem) if self._problem else "".join(map(small, self._said()))
        self._notes.value = said
        if not self.found:
            return
        drawn = measures_html(self.found)
        if len(self.found) == 1:
            from wanavatar_lab.ui.plots import plots_html  # matplotlib, which a panel without a result does not need

            drawn = plots_html(lip_plots(self.found)) + drawn
        else:
            from wanavatar_lab.media.embed import data_url  # as matplotlib

            alt = escape(WORDS.text("picture"), quote=True)
            drawn += (
                f'<img src="{data_url(self._svg, "image/svg+xml")}" alt="{alt}" '
                'style="max-width: 100%; background: white; border-radius: 6px">'
            )
        self._picture.value = f'<div lang="{language.code}">{drawn}</div>'

    def _said(self) -> list[str]:
        clips = [clip for each in self.found for clip in (each["clip"], each["other"]) if clip]
        return [f"{Path(clip['clip']).name}: {in_language(note)}" for clip in clips for note in clip["notes"]]

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


def measures_html(found: Found) -> str:
    """The measures of clips as a table, with a column for each side; of several clips their medians."""
    # slow to import, and a panel imports this module
    from wanavatar_lab.metrics.evaluate import MEASURES
    from wanavatar_lab.metrics.evaluation_picture import better_of, shown

    sides = [[each[side] for each in found if each[side]] for side in ("clip", "other")]
    sides = [side for side in sides if side]
    names = names_of([side[0]["clip"] for side in sides])
    if len(found) > 1:
        folders = [Path(side[0]["clip"]).parent.name for side in sides]
        names = [MEASURE_WORDS.text("median", folder=folder, count=len(found)) for folder in folders]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows = ""
    for name, measure in MEASURES.items():
        known = [[value for clip in side if (value := clip["measures"][name]) is not None] for side in sides]
        values = [median(each) if each else None for each in known]
        best = better_of(name, *values) if len(values) == 2 else None
        unit = MEASURE_WORDS.text(f"unit_{measure.unit}") if f"unit_{measure.unit}" in MEASURE_WORDS else measure.unit
        cells = ""
        for side, value in enumerate(values):
            text = escape(shown(name, value).removesuffix(measure.unit).rstrip())
            text += f" {escape(unit)}" if unit and value is not None else ""
            cells += f"<td>{f'<strong>{text}</strong>' if best == side else text}</td>"
        rows += f'<tr><th scope="row">{escape(MEASURE_WORDS.text(name))}</th>{cells}</tr>'
    better = f"<p><small>{escape(MEASURE_WORDS.text('better'))}</small></p>" if len(sides) == 2 else ""
    return (
        f'<style>{_LOOK}</style><table class="wl-measures"><thead><tr><th scope="col">{MEASURE_WORDS.text("measure")}'
        f"</th>{head}</tr></thead><tbody>{rows}</tbody></table>{better}"
    )


def lip_plots(found: Found) -> "list[Plot]":
    """The opening of the mouth against the loudness of each clip, and where segments join or frames are lost."""
    plots = []
    clips = [clip for each in found for clip in (each["clip"], each["other"]) if clip]
    for name, clip in zip(names_of([clip["clip"] for clip in clips]), clips, strict=True):
        plot = lip_plot({MEASURE_WORDS.text("opening"): clip["opening"]}, clip["level"], clip["fps"], name)
        marks = []
        for border in clip["borders"]["frames"]:
            plot.axes.axvline(border / clip["fps"], color="#8a8a8a", linewidth=1, linestyle=(0, (4, 3)))
        if clip["borders"]["frames"]:
            marks.append((MEASURE_WORDS.text("border"), "#8a8a8a"))
        for name, colour in (("frozen", "#56b4e9"), ("black", "#000000")):
            for first, last in clip[name]:
                plot.axes.axvspan(first / clip["fps"], last / clip["fps"], color=colour, alpha=0.35, linewidth=0)
            if clip[name]:
                marks.append((MEASURE_WORDS.text(name), colour))
        plots.append(replace(plot, legend=(*plot.legend, *marks)))
    return plots


def names_of(clips: Sequence[str]) -> list[str]:
    """The names of files, with their folders where these tell them apart."""
    paths = [Path(clip) for clip in clips]
    alike = len({path.name for path in paths}) < len(paths)
    return [f"{path.parent.name}/{path.name}" if alike else path.name for path in paths]


def lip_plot(openings: Mapping[str, Sequence[float | None]], level: Sequence[float], fps: float, clip: str) -> "Plot":
    """The opening of mouths as lines, and the loudness as an area, each as a share of its largest value.

    Args:
        openings: of each frame, by the name of the line; None without a face.
        level: loudness of each frame, full scale 1.
        fps: frames per second.
        clip: its name.
    """
    import numpy as np

    from wanavatar_lab.ui.plots import BLUE, GREEN, ORANGE, PINK, RED, Plot, new_axes

    axes, legend = new_axes(wide=True), []
    at = (np.arange(len(level)) + 0.5) / fps
    loud = np.array(level)
    if loud.any():
        axes.fill_between(at, 100 * loud / loud.max(), color=ORANGE, alpha=0.35, linewidth=0)
        legend.append((MEASURE_WORDS.text("loudness"), ORANGE))
    mouths = {name: np.array([np.nan if each is None else each for each in known]) for name, known in openings.items()}
    largest = max((float(np.nanmax(mouth)) for mouth in mouths.values() if np.isfinite(mouth).any()), default=1.0)
    for (name, mouth), colour in zip(mouths.items(), (BLUE, RED, GREEN, PINK), strict=False):
        axes.plot((np.arange(len(mouth)) + 0.5) / fps, 100 * mouth / (largest or 1.0), color=colour, label=name)
        legend.append((name, colour))
    axes.set_ylim(0, 105)
    axes.margins(x=0)
    words = (MEASURE_WORDS.text("lips_title", clip=clip), MEASURE_WORDS.text("lips_up"), MEASURE_WORDS.text("seconds"))
    return Plot(axes, *words, legend, MEASURE_WORDS.text("no_lips"), wide=True)


def identity_plot(clip: Mapping[str, Any]) -> "Plot":
    """How far the colours of each region are from the reference, in the successive parts of a clip.

    Args:
        clip: the JSON of the command.
    """
    from wanavatar_lab.ui.plots import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, Plot, line_at, new_axes

    axes, legend = new_axes(wide=True), []
    look = clip["identity"] or {"starts": [], "colours": []}
    middle = [(a + b) / 2 / clip["fps"] for a, b in pairwise([*look["starts"], clip["frames"]])]
    regions = dict.fromkeys(region for part in look["colours"] for region in part)
    for region, colour in zip(regions, (BLUE, ORANGE, GREEN, PINK, RED, SKY, GREY), strict=False):
        values = [part.get(region) for part in look["colours"]]
        if any(value is not None for value in values):
            axes.plot(middle, [float("nan") if each is None else each for each in values], "o-", color=colour)
            name = MEASURE_WORDS.text(f"region_{region}") if f"region_{region}" in MEASURE_WORDS else region
            legend.append((name, colour))
    if legend:
        line_at(axes, 1)  # what is just visible side by side
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, clip["seconds"])
    title = MEASURE_WORDS.text("identity_title", reference=(clip["identity"] or {}).get("reference", ""))
    words = (title, MEASURE_WORDS.text("identity_up"), MEASURE_WORDS.text("seconds"))
    return Plot(axes, *words, legend, MEASURE_WORDS.text("no_identity"), wide=True)


async def _evaluated(words: list[str]) -> tuple[list[Mapping[str, Any]], bytes]:
    """What the command prints and draws."""
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "picture.svg"
        found = await run_command("evaluate", *words, "--picture", str(picture))
        return found, picture.read_bytes()


def _players(clips: list[str]) -> list[widgets.Widget]:
    if not all(Path(clip).is_file() and (can_show(clip) or is_sent(clip)) for clip in clips):
        return []
    from wanavatar_lab.ui.player import Player  # it reads media, which is slow to import

    return [Player(*clips)]
