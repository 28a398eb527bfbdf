"""The prepared clips of a person: the report as a table, contact sheets, and the masks of one clip over its frames."""

import io
import json
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
from IPython.display import HTML
from PIL import Image

from training.prepare.clip_folder import FACE_MASKS, FPS, LIP_MASKS, ClipFolder, read_clip, read_clips
from training.prepare.clips import SHEET
from training.prepare.draw_masks import Masks
from training.prepare.sheets import overlaid
from training.ui.person import Person, need
from wanavatar_lab.errors import LabError
from wanavatar_lab.media.embed import data_url
from wanavatar_lab.ui.evaluation import lip_plot
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.messages import add_messages, in_language
from wanavatar_lab.ui.panel import view_of
from wanavatar_lab.ui.plots import GREEN, GREY, RED, Plot, new_axes, plots_html, shown
from wanavatar_lab.ui.record import Record
from wanavatar_lab.ui.widget import Look, Translated

Clip = Mapping[str, Any]
SHOWN, TALL = 8, 160  # frames of a clip, and their height in pixels, shown at 112 px for dense displays
# twice the class, since notebooks have rules of their own for tables
_LOOK = (
    ".wl-report.wl-report { border-collapse: collapse; font-size: 13px; line-height: 1.4 }"
    ".wl-report.wl-report :is(th, td) { padding: 3px 8px 3px 4px; text-align: left; vertical-align: top }"
    ".wl-report.wl-report td { font-variant-numeric: tabular-nums }"
    ".wl-report.wl-report tbody th { white-space: nowrap }"
    ".wl-report.wl-report thead th { opacity: 0.85; font-weight: 600; vertical-align: bottom }"
    # file names and sentences
    ".wl-report.wl-report td:is(.video, .flagged, .notes) { min-width: 8em; overflow-wrap: anywhere }"
    # else the widget's box would grow to the width of the table, which could then not be scrolled
    ".widget-html-content:has(.wl-report) { min-width: 0; max-width: 100% }"
    ".wl-report.wl-report caption { text-align: left; font-weight: 600; padding: 4px }"
)
_FLAGGED = "background: color-mix(in srgb, #e69f00 22%, transparent)"
WORDS = read_words(__file__, "report")
add_messages(__file__, "problems")  # which the report has in English


def _share(value: float | None) -> str:
    return WORDS.text("none") if value is None else f"{value:.1%}"


def _known(value: float | None, form: str) -> str:
    return WORDS.text("unknown") if value is None else format(value, form)


def _use(clip: Clip) -> str:
    # reports of earlier releases do not have it: all of their clips were used
    if why := clip.get("left_out"):
        return WORDS.text("nothing", why=in_language(why))
    return WORDS.text("validation" if clip["held_out"] else "training")


def _notes(clip: Clip) -> list[str]:
    hdr = [WORDS.text("hdr", kind=clip["hdr"])] if clip.get("hdr") else []
    return [*hdr, *map(in_language, clip.get("notes", ()))]


def _video(clip: Clip) -> str:
    return WORDS.text("video_from", video=clip["video"], start=f"{clip['start']:.1f}")


# key of the name and, with "_says", of the meaning, and text of each column
COLUMNS: tuple[tuple[str, Callable[[Clip], str]], ...] = (
    ("clip", lambda clip: clip["name"]),
    ("video", _video),
    ("seconds", lambda clip: f"{clip['seconds']:.1f}"),
    ("face", lambda clip: f"{clip['face_found']:.0%}"),
    ("face_area", lambda clip: _share(clip["face_area"])),
    ("lip_area", lambda clip: _share(clip["lip_area"])),
    ("lag", lambda clip: _known(clip["lag"], "+d")),
    ("sync", lambda clip: _known(clip["lag_r"], ".2f")),
    ("sharpness", lambda clip: f"{clip['sharpness']:.0f}"),
    ("speech", lambda clip: f"{clip['speech']:.0f}"),
    ("used", _use),
    ("flagged", lambda clip: "; ".join(map(in_language, clip["problems"]))),
    ("notes", lambda clip: "; ".join(_notes(clip))),
)


class ReportTable(Translated, widgets.HTML):
    """The report of a person's clips, a row each, flagged ones highlighted, with its heads in the language shown.

    Raises:
        LabError: nothing was prepared.
    """

    def __init__(self, person: Person) -> None:
        self._report = _read_report(person)
        super().__init__()

    def show_words(self) -> None:
        """Write the table in the language shown."""
        report = self._report
        # a column that has nothing to say would only make the table wider than the page
        columns = [(key, write) for key, write in COLUMNS if any(map(write, report["clips"]))]
        names = [(key, escape(WORDS.text(key)), escape(WORDS.text(f"{key}_says"))) for key, _ in columns]
        head = "".join(f'<th scope="col" class="{key}" title="{says}">{name}</th>' for key, name, says in names)
        rows = ""
        for clip in report["clips"]:
            (_, first), *others = ((key, escape(write(clip))) for key, write in columns)
            style = f' style="{_FLAGGED}"' if clip["problems"] else ""
            cells = "".join(f'<td class="{key}">{text}</td>' for key, text in others)
            rows += f'<tr{style}><th scope="row">{first}</th>{cells}</tr>'
        count, flagged = len(report["clips"]), len(report["flagged"])
        clips = WORDS.text("one" if count == 1 else "many", count=count)
        caption = WORDS.text("caption", clips=clips, seconds=f"{report['seconds']:.0f}", flagged=flagged)
        meanings = "".join(f"<dt><strong>{name}</strong></dt><dd>{says}</dd>" for _, name, says in names)
        refused = "".join(
            f"<li>{escape(each['video'])}: {escape(in_language(each['why']))}</li>" for each in report["refused"]
        )
        self.value = (
            f'<div role="region" aria-label="{caption}" tabindex="0" lang="{language.code}" style="overflow-x: auto">'
            f'<style>{_LOOK}</style><table class="wl-report"><caption>{caption}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
            f"<details><summary>{WORDS.text('meaning')}</summary><dl>{meanings}</dl></details>"
            + (f"<p>{WORDS.text('refused')}</p><ul>{refused}</ul>" if refused else "")
        )

    def record(self) -> Record:
        """The table."""
        return Record(self.value)


class ContactSheets(Translated, widgets.VBox):
    """An overview of all clips, and the sheet of each in an accordion that opens at the first flagged one.

    Raises:
        LabError: nothing was prepared.
    """

    def __init__(self, person: Person) -> None:
        self._clips: list[Clip] = _read_report(person)["clips"]
        sheets = [view_of([person.data / "processed" / clip["name"] / SHEET]) for clip in self._clips]
        flagged = next((place for place, clip in enumerate(self._clips) if clip["problems"]), 0)
        self._each = widgets.Accordion(sheets, selected_index=flagged)
        self._says = widgets.HTML()
        super().__init__([Look(), view_of([person.data / "contact_sheet.png"]), self._says, self._each])

    def show_words(self) -> None:
        """Write the legend, and the problems of each clip beside its name."""
        self._says.value = f'<p lang="{language.code}">{escape(WORDS.text("sheet"))}</p>'
        said = [(clip["name"], *map(in_language, clip["problems"])) for clip in self._clips]
        self._each.titles = tuple(": ".join(filter(None, (name, "; ".join(problems)))) for name, *problems in said)


def lip_plot_of(person: Person, clip: str) -> HTML:
    """The opening of the mouth against the loudness of a prepared clip, as its preparation measured them.

    Raises:
        LabError: nothing was prepared, or there is no such clip.
    """
    found = [each for each in _read_report(person)["clips"] if each["name"] == clip]
    if not found:
        raise LabError(f"There is no clip {clip} in {person.data}; the table of the report has their names.")
    level = [10 ** (each / 20) for each in found[0]["level"]]
    return shown([lip_plot({WORDS.text("opening"): found[0]["opening"]}, level, FPS, clip)])


def used_clips(person: Person) -> list[Path]:
    """The folders of the clips to train on, prepared by this package or elsewhere.

    Raises:
        LabError: there are none, or one is not complete.
    """
    return [clip.path for clip in read_clips(need(person.clip_list, "10_prepare"))]


def masks_over_frames(folder: Path) -> HTML:
    """Frames of a clip with the face in green and the lips in red, above the areas of both in all frames.

    Raises:
        LabError: the folder is not a complete clip.
    """
    clip = read_clip(folder)
    valid = clip.valid()
    figures = ""
    for frame in np.linspace(0, clip.frames - 1, SHOWN).round().astype(int).tolist():
        masks = Masks(clip.mask(FACE_MASKS, frame), clip.mask(LIP_MASKS, frame), bool(valid[frame]))
        picture = Image.fromarray(overlaid(clip.image(frame), masks))
        picture.thumbnail((4 * TALL, TALL))
        stream = io.BytesIO()
        picture.save(stream, "WEBP", quality=85)
        source = data_url(stream.getvalue(), "image/webp")
        at = f"{frame / clip.fps:.1f} s"
        figures += (
            f'<figure style="margin: 0"><img src="{source}" alt="Frame at {at} with its masks" '
            f'style="display: block; height: 112px"><figcaption style="font-size: 12px">{at}</figcaption></figure>'
        )
    return HTML(f'<div style="display: flex; flex-wrap: wrap; gap: 8px">{figures}</div>{plots_html([area_plot(clip)])}')


def area_plot(clip: ClipFolder) -> Plot:
    """The areas of the masks of a clip over its seconds."""
    seconds, valid = np.arange(clip.frames) / clip.fps, clip.valid()
    axes = new_axes(wide=True)
    legend = []
    for words, kind, colour in (("face", FACE_MASKS, GREEN), ("lips", LIP_MASKS, RED)):
        area = np.array([(clip.mask(kind, frame) > 127).mean() for frame in range(clip.frames)])
        axes.plot(seconds, 100 * area, color=colour, label=words)
        legend.append((words, colour))
    if not valid.all():
        across = axes.get_xaxis_transform()
        axes.fill_between(seconds, 0, 1, where=~valid, transform=across, color=GREY, alpha=0.3, step="mid")
        legend.append(("no face: excluded from both masks", GREY))
    axes.set_yscale("log")
    axes.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    return Plot(axes, f"Masks of {clip.path.name}", "share of the picture, %", "seconds", legend, wide=True)


def _read_report(person: Person) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(need(person.data / "report.json", "10_prepare").read_text(encoding="utf-8"))
    return found
