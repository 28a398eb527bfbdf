"""What a notebook keeps of what its widgets showed: pictures, clips, settings and times as HTML, without a kernel.

A widget's view needs its kernel. So below each view a notebook gets a record, which is written again when a run ends:
it is in the file that is saved and in an exported page, with its pictures inside. Where the view is alive the record is
hidden. A notebook that runs headless, with `interactive` False, gets the record alone.
"""

import base64
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import ipywidgets as widgets

from wanavatar_lab.errors import LabError
from wanavatar_lab.files import printable
from wanavatar_lab.requests import fields_of
from wanavatar_lab.requests.request import prompt_of
from wanavatar_lab.ui.language import language, read_words, shorten, stage_name

if TYPE_CHECKING:
    from wanavatar_lab.runs.run import Run

PNG_SIDE = 512  # longest side in pixels of a picture's copy as image/png, for formats without HTML
LONGEST_VALUE = 400  # characters of a setting
VIEW = "application/vnd.jupyter.widget-view+json"
WORDS = read_words(__file__, "states", "record")

# The first rule hides a view that cannot be drawn: Lab gives it the class of widgets, as an exported page does where it
# has the widgets' state, whose scripts are elsewhere. The second hides the record below a view that is alive in Lab.
_LOOK = """
.jp-OutputArea-child:has(> .jp-OutputArea-output.jupyter-widgets):has(+ * .wl-record),
.jp-OutputArea-child:has(> .jp-OutputArea-output.lm-Panel:not(.jupyter-widgets)) + *:has(.wl-record) { display: none }
.wl-record { font: 14px/1.5 system-ui, sans-serif; max-width: 1040px; margin: 4px 0 12px }
.wl-record :is(h3, h4) { margin: 0 0 6px; font-size: 16px }
.wl-record blockquote { margin: 0 0 8px; padding: 0 0 0 12px; border-left: 3px solid #8888; font-style: italic }
.wl-record .wl-kept { display: flex; flex-wrap: wrap; gap: 14px 20px; align-items: flex-start; margin: 6px 0 }
.wl-record .wl-facts { flex: 1 1 280px; min-width: 0 }
.wl-record figure { margin: 0; max-width: 100% }
.wl-record figure :is(img, video) { border-radius: 10px }
.wl-record figcaption { font-size: 12px; opacity: 0.8; margin-top: 4px; overflow-wrap: anywhere }
.wl-record dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 0 0 8px }
.wl-record dt { float: none; width: auto; white-space: nowrap; opacity: 0.7; font-weight: 400 }
.wl-record dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums }
.wl-record table { border-collapse: collapse; margin: 6px 0 }
.wl-record :is(th, td) { padding: 4px 8px; text-align: left; vertical-align: top }
.wl-record details { margin: 2px 0 }
.wl-record pre { white-space: pre-wrap; font-size: 12px }
"""


@dataclass(frozen=True)
class Record:
    """Something that was shown, in the formats in which a notebook keeps it.

    Attributes:
        html: with its pictures inside.
        text: the same without them.
        picture: its first one as PNG, for formats without HTML; empty where there is none.
    """

    html: str = ""
    text: str = ""
    picture: bytes = b""

    def bundle(self) -> dict[str, str]:
        """By media type, as a notebook has it."""
        html = f'<style>{_LOOK}</style><div class="wl-record" lang="{language.code}">{self.html}</div>'
        picture = {"image/png": base64.b64encode(self.picture).decode("ascii")} if self.picture else {}
        return {"text/plain": self.text, "text/html": html, **picture}


@dataclass
class _Reader:
    """Who looks at this kernel's notebook: a person, or nobody, where it runs headless."""

    is_there: bool = True


_reader = _Reader()


def is_headless() -> bool:
    """Whether the notebook of this kernel runs without a person: widgets are recorded, and progress is printed."""
    return not _reader.is_there


def run_headless(headless: bool = True) -> None:
    """Say that the notebook of this kernel runs without a person, as its parameter `interactive` does."""
    _reader.is_there = not headless


def joined(records: Iterable[Record], *, across: bool = False) -> Record:
    """Records below each other, or beside each other where there is room."""
    found = [record for record in records if record != Record()]
    html = "".join(record.html for record in found)
    return Record(
        f'<div class="wl-kept">{html}</div>' if across and html else html,
        "\n".join(record.text for record in found if record.text),
        next((record.picture for record in found if record.picture), b""),
    )


def record_of(widget: Any) -> Record:
    """The record of any widget: of a box, of all that is in it."""
    if hasattr(widget, "record"):  # of `ui/widget.py: Recorded`
        found: Record = widget.record()
        return found
    if isinstance(widget, widgets.HTML):
        return Record(widget.value)
    inside = [record_of(child) for child in getattr(widget, "children", ())]
    if titles := getattr(widget, "titles", ()):  # of an accordion
        inside = [
            Record(f"<details><summary>{escape(title)}</summary>{each.html}</details>", each.text, each.picture)
            for title, each in zip(titles, inside, strict=False)
        ]
    return joined(inside, across=isinstance(widget, widgets.HBox))


def record_of_file(path: Path | str, label: str = "", **limits: int) -> Record:
    """A picture, clip or recording with its name, size and a link: embedded where it is small.

    Args:
        path: the file; where it is gone or damaged, the record says so.
        label: its caption, besides.
        limits: `side` and `largest` of `wanavatar_lab.media.embed.embed`.
    """
    from wanavatar_lab.media.embed import embed, encoded  # slow to import, and a panel without a result needs none

    path = Path(path)
    place = relative(path)
    target = f'href="{escape(quote(place), quote=True)}" target="_blank" title="{escape(printable(place), quote=True)}"'
    link = f"<a {target}>{escape(printable(path.name))}</a>"
    try:
        shown = embed(path, label, **limits)
    except (LabError, OSError) as error:
        return Record(f"<p>{link}: {escape(printable(str(error)))}</p>", f"{printable(place)}: {error}")
    is_poster = shown.info.kind == "video" and not shown.whole
    drawn = f"<a {target}>{shown.html}</a>" if is_poster else shown.html
    heading = f"<strong>{escape(label)}</strong><br>" if label else ""
    width = "auto" if shown.width is None else f"{shown.width}px"
    return Record(
        f'<figure style="width: {width}">{drawn}<figcaption>{heading}{shown.facts} · {link}</figcaption></figure>',
        f"{printable(label or place)}: {shown.facts}" + (f", {printable(place)}" if label else ""),
        b"" if shown.still is None else encoded(shown.still, PNG_SIDE, "PNG"),
    )


def record_of_run(run: "Run", shown: Record | None = None) -> Record:
    """A run: its files, seed, prompt, times and changed settings; all settings and its log's place folded away.

    Args:
        shown: how its files are shown; None shows each.
    """
    from wanavatar_lab.ui.copy_request import as_command, changed_values

    try:
        status, request = run.status(), run.request()
    except LabError as error:  # deleted or damaged, or of a stage that is not registered
        return Record(f"<p>{escape(printable(str(error)))}</p>", printable(str(error)))
    if shown is None:
        shown = joined((record_of_file(run.path(artifact)) for artifact in status.artifacts), across=True)
    kind = type(request)
    everything = request.to_json() | ({"seed": status.seed} if status.seed is not None else {})
    changed = {name: everything[name] for name in changed_values(request, status.seed) if name != "profile"}
    prompt = prompt_of(everything)
    for name in ("prompt", "text"):
        changed.pop(name, None)
    values = {**({"seed": changed.pop("seed", status.seed)} if "seed" in everything else {}), **changed}
    facts = settings_of(kind, values)
    begun = status.started_at or status.submitted_at
    seconds = (status.finished_at or 0.0) - (begun or 0.0) if status.ended and begun else None
    took = "" if seconds is None else f"{seconds:.1f} s"
    memory = "" if status.memory_bytes is None else f"{status.memory_bytes / 1e9:.2f} GB"
    facts += [(WORDS.text(name), text) for name, text in (("took", took), ("memory", memory)) if text]
    facts.append((WORDS.text("run"), run.id))
    title = f"{stage_name(run.stage)} · {everything['profile']}"
    state = "" if status.state == "succeeded" else f" · {WORDS.text(status.state)}"
    why = f"<p>{escape(printable(status.error))}</p>" if status.error else ""
    command = escape(printable(as_command(request, status.seed)))
    html = (
        f'<div class="wl-kept">{shown.html}<div class="wl-facts"><h4>{escape(title + state)}</h4>{why}{_quote(prompt)}'
        f"{_list(facts)}<details><summary>{WORDS.text('settings')}</summary>"
        f"{_list(settings_of(kind, everything))}<pre>{command}</pre></details></div></div>"
    )
    head = ", ".join([title + state, *(f"{label} {value}" for label, value in facts[:-1])])
    return Record(
        html, "\n".join(filter(None, (head, prompt, printable(status.error or ""), shown.text))), shown.picture
    )


def record_of_form(request_class: Any, profile: str, values: Mapping[str, Any]) -> Record:
    """What a form holds that has not been run: the values that were given to it."""
    title = f"{language.of(request_class.labels)} · {profile} · {WORDS.text('not_run')}"
    facts = settings_of(request_class, {name: value for name, value in values.items() if name != "profile"})
    return Record(f"<h4>{escape(title)}</h4>{_list(facts)}", title)


def settings_of(request_class: Any, values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Labels and texts of values of fields; files by name, and nothing for those that are empty."""
    views, found = fields_of(request_class), []
    for name, value in values.items():
        if name not in views or value in ("", None, [], ()):
            continue
        text = str(value)
        if views[name].is_file:
            text = Path(text).name
        elif isinstance(value, bool):
            text = WORDS.text("yes" if value else "no")
        elif isinstance(value, list | tuple):
            text = ", ".join(" ".join(str(part) for part in dict(each).values() if part is not None) for each in value)
        unit = language.of(views[name].unit_labels)
        found.append((language.of(views[name].labels), shorten(f"{text} {unit}".strip(), LONGEST_VALUE)))
    return found


def table(rows: Iterable[str], columns: Iterable[str], cells: Iterable[Iterable[Record]]) -> Record:
    """A contact sheet: a label for each row and column, and a record in each cell."""
    lines = [[*line] for line in cells]
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    body = "".join(
        f'<tr><th scope="row">{escape(row)}</th>{"".join(f"<td>{cell.html}</td>" for cell in line)}</tr>'
        for row, line in zip(rows, lines, strict=True)
    )
    html = f'<table class="wl-sheet"><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>'
    whole = joined(cell for line in lines for cell in line)
    return Record(html, whole.text, whole.picture)


def relative(path: Path) -> str:
    """A path as a notebook's link has it: relative to the folder of the notebook, with `/`.

    Jupyter tells a kernel its notebook by JPY_SESSION_NAME; elsewhere it is taken to be in the working folder.
    """
    notebook = Path(os.environ.get("JPY_SESSION_NAME") or "x.ipynb").absolute()
    folder = notebook.parent if notebook.parent.is_dir() else Path.cwd()
    return Path(os.path.relpath(path.absolute(), folder)).as_posix()


def _quote(prompt: str) -> str:
    return f"<blockquote>{escape(printable(prompt))}</blockquote>" if prompt else ""


def _list(facts: Iterable[tuple[str, str]]) -> str:
    return f"<dl>{''.join(f'<dt>{escape(label)}</dt><dd>{escape(printable(text))}</dd>' for label, text in facts)}</dl>"
