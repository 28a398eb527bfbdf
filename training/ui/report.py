"""The report of the preparation as a table of clips, and the contact sheets that show the masks.

The masks of a clip over its frames: some frames with face and lips, and how much of the picture both have.
"""

import base64
import io
import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
from IPython.display import HTML
from numpy.typing import NDArray
from PIL import Image

from training.prepare.clip_folder import FACE_MASKS, LIP_MASKS, ClipFolder, read_clip, read_clips
from training.prepare.clips import SHEET
from training.prepare.draw_masks import Masks
from training.prepare.sheets import overlaid
from training.ui.person import Person, need
from training.ui.plots import GREEN, GREY, RED, Plot, new_axes, plots_html
from wanavatar_lab.ui.panel import view_of
from wanavatar_lab.ui.widget import Look

SHOWN, TALL = 8, 160  # frames, and the pixels of their height


def masks_over_frames(folder: Path) -> HTML:
    """Frames of a clip with the face in green and the lips in red, above the areas of both in all frames.

    Raises:
        LabError: the folder is no complete clip.
    """
    clip = read_clip(folder)
    valid = clip.valid()
    frames = np.linspace(0, clip.frames - 1, SHOWN).round().astype(int).tolist()
    shown = "".join(_frame(clip, frame, bool(valid[frame])) for frame in frames)
    return HTML(f'<div style="display: flex; flex-wrap: wrap; gap: 8px">{shown}</div>{plots_html([area_plot(clip)])}')


def area_plot(clip: ClipFolder) -> Plot:
    """The areas of the masks of a clip over its seconds."""
    seconds, valid = np.arange(clip.frames) / clip.fps, clip.valid()
    axes = new_axes(wide=True)
    legend = []
    for words, area, colour in zip(("face", "lips"), areas(clip), (GREEN, RED), strict=True):
        axes.plot(seconds, 100 * area, color=colour, label=words)
        legend.append((words, colour))
    if not valid.all():
        across = axes.get_xaxis_transform()
        axes.fill_between(seconds, 0, 1, where=~valid, transform=across, color=GREY, alpha=0.3, step="mid")
        legend.append(("no face: counts in no mask", GREY))
    axes.set_yscale("log")
    axes.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    return Plot(axes, f"Masks of {clip.path.name}", "share of the picture, %", "seconds", legend, wide=True)


def areas(clip: ClipFolder) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of the picture that face and lips have, float64 [frames] each."""
    face, lips = (
        np.array([(clip.mask(kind, frame) > 127).mean() for frame in range(clip.frames)])
        for kind in (FACE_MASKS, LIP_MASKS)
    )
    return face, lips


def _frame(clip: ClipFolder, frame: int, valid: bool) -> str:
    face, lips = (clip.mask(kind, frame) for kind in (FACE_MASKS, LIP_MASKS))
    picture = Image.fromarray(overlaid(clip.image(frame), Masks(face, lips, valid)))
    picture.thumbnail((4 * TALL, TALL))
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=85)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    at = f"{frame / clip.fps:.1f} s"
    return (
        f'<figure style="margin: 0"><img src="data:image/webp;base64,{data}" alt="Frame at {at} with its masks" '
        f'style="display: block; height: 112px"><figcaption style="font-size: 12px">{at}</figcaption></figure>'
    )


Clip = Mapping[str, Any]
_LOOK = (
    ".wl-report { border-collapse: collapse; text-align: left; white-space: nowrap }"
    ".wl-report td { font-variant-numeric: tabular-nums }"
    ".wl-report :is(th, td) { padding: 3px 14px 3px 4px } .wl-report thead th { opacity: 0.85; font-weight: 600 }"
    # the box that the widget lays around it would be as wide as the table, which then had nothing to be moved in
    ".widget-html-content:has(.wl-report) { min-width: 0; max-width: 100% }"
    ".wl-report caption { text-align: left; font-weight: 600; padding: 4px }"
)
_FLAGGED = "background: color-mix(in srgb, #e69f00 22%, transparent)"

# what a column is called, what it means, and how it is written
COLUMNS: tuple[tuple[str, str, Callable[[Clip], str]], ...] = (
    ("clip", "its folder below processed", lambda clip: clip["name"]),
    ("video", "where it comes from", lambda clip: f"{clip['video']} from {clip['start']:.1f} s"),
    ("seconds", "how long it is", lambda clip: f"{clip['seconds']:.1f}"),
    ("face", "share of the frames with a face", lambda clip: f"{clip['face_found']:.0%}"),
    ("face area", "share of the picture that the mask has", lambda clip: _share(clip["face_area"])),
    ("lip area", "share of the picture that the mask has", lambda clip: _share(clip["lip_area"])),
    ("lag", "frames by which the mouth comes late", lambda clip: _known(clip["lag"], "+d")),
    ("follows", "correlation of mouth and loudness at that lag", lambda clip: _known(clip["lag_r"], ".2f")),
    ("sharpness", "variance of the Laplacian of the face", lambda clip: f"{clip['sharpness']:.0f}"),
    ("speech", "loudness of the loud speech, dBFS", lambda clip: f"{clip['speech']:.0f}"),
    ("used for", "what the clip is for", lambda clip: "validation" if clip["held_out"] else "training"),
    ("flagged", "what is wrong with it", lambda clip: "; ".join(clip["problems"])),
)


class ReportTable(widgets.HTML):
    """The report of a person's clips, a row each; those that are flagged stand out.

    Args:
        person: whose clips were prepared.

    Raises:
        LabError: they were not.
    """

    def __init__(self, person: Person) -> None:
        report = read_report(person)
        super().__init__(value=_table(report))


def read_report(person: Person) -> dict[str, Any]:
    """What `training.prepare` found.

    Raises:
        LabError: nothing was prepared.
    """
    path = need(person.data / "report.json", "10_prepare")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def contact_sheets(person: Person) -> widgets.Widget:
    """An overview of all clips, and below it the sheet of each, folded up but for those that are flagged.

    Raises:
        LabError: nothing was prepared.
    """
    clips: Sequence[Clip] = read_report(person)["clips"]
    sheets = [view_of([person.data / "processed" / clip["name"] / SHEET]) for clip in clips]
    flagged = next((place for place, clip in enumerate(clips) if clip["problems"]), 0)
    each = widgets.Accordion(sheets, titles=tuple(_title(clip) for clip in clips), selected_index=flagged)
    says = "<p>Green is the face and red the lips; a red border means that no face was found. Below, the grey line is "
    says += "the loudness and the red one the opening of the mouth.</p>"
    return widgets.VBox([Look(), view_of([person.data / "contact_sheet.png"]), widgets.HTML(says), each])


def used_clips(person: Person) -> list[Path]:
    """The folders of the clips that are listed for training, prepared here or elsewhere.

    Raises:
        LabError: there are none, or one is not complete.
    """
    listed = need(person.data / "processed" / "video_path.txt", "10_prepare")
    return [clip.path for clip in read_clips(listed)]


def _title(clip: Clip) -> str:
    return f"{clip['name']}: {'; '.join(clip['problems'])}" if clip["problems"] else str(clip["name"])


def _table(report: Mapping[str, Any]) -> str:
    head = "".join(f'<th scope="col" title="{escape(says)}">{escape(name)}</th>' for name, says, _ in COLUMNS)
    rows = "".join(_row(clip) for clip in report["clips"])
    refused = "".join(f"<li>{escape(each['video'])}: {escape(each['why'])}</li>" for each in report["refused"])
    caption = f"{len(report['clips'])} clips, {report['seconds']:.0f} s, {len(report['flagged'])} flagged"
    table = (
        f'<div role="region" aria-label="{escape(caption)}" tabindex="0" style="overflow-x: auto">'
        f'<style>{_LOOK}</style><table class="wl-report">'
        f"<caption>{caption}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    meanings = "".join(f"<dt><strong>{escape(name)}</strong></dt><dd>{escape(says)}</dd>" for name, says, _ in COLUMNS)
    key = f"<details><summary>What the columns mean</summary><dl>{meanings}</dl></details>"
    return table + key + (f"<p>Refused:</p><ul>{refused}</ul>" if refused else "")


def _row(clip: Clip) -> str:
    first, *others = (escape(write(clip)) for _, _, write in COLUMNS)
    style = f' style="{_FLAGGED}"' if clip["problems"] else ""
    return f'<tr{style}><th scope="row">{first}</th>{"".join(f"<td>{each}</td>" for each in others)}</tr>'


def _share(value: float | None) -> str:
    return "none" if value is None else f"{value:.1%}"


def _known(value: float | None, form: str) -> str:
    return "unknown" if value is None else format(value, form)
