"""How a request shows itself: its fields as help, as text and as a table that marks what differs from the default."""

import inspect
import textwrap
from collections.abc import Iterator, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from wanavatar_lab.files import printable
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests.field_spec import FieldView, fields_of

if TYPE_CHECKING:
    from wanavatar_lab.requests.request import Request

WIDTH = 100  # columns of a help text: what a terminal and a notebook's help pane show without a second wrap
LONGEST_VALUE = 60  # characters of a value in a line or a cell
_TYPES: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str, "list": list}
# Lab's colours where there are some, else those of the page
FRAME = "1px solid var(--jp-border-color2, #c8ccd1)"
FAINT = "color: var(--jp-ui-font-color2, #6a737d)"
ACCENT = "var(--jp-brand-color1, #1976d2)"


def defaults_of(model: "type[Request]", profile: str) -> dict[str, Any]:
    """The default of every field under a profile; None for a required one."""
    overrides = {**PROFILES[profile].default_overrides(model.stage), "profile": profile}  # a tool has no such field
    return {name: overrides.get(name, view.default) for name, view in fields_of(model).items()}


def help_of(model: "type[Request]") -> str:
    """Every field with its default, what is allowed, its unit and its help, as lines of text."""
    lines: list[str] = []
    for name, view in fields_of(model).items():
        lines.append(f"{name}: {_default_in_words(model, view)}")
        unit = f", in {view.unit}" if view.unit else ""
        says = f"{view.allowed[:1].upper()}{view.allowed[1:]}{unit}. {view.help['en']}"
        lines += textwrap.wrap(says, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def signature_of(model: "type[Request]") -> inspect.Signature:
    """The constructor's arguments with plain types, a choice as `Literal`, so that editors and Tab know the choices."""
    parameters = []
    for name, view in fields_of(model).items():
        kind: Any = Literal.__getitem__(tuple(view.options)) if view.options else _TYPES.get(view.kind, Any)
        default = inspect.Parameter.empty if view.required else view.default
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=kind | None if view.optional else kind,
            )
        )
    return inspect.Signature(parameters)


def as_text(request: "Request") -> str:
    """A line per field; a star marks what differs from the profile's default, which is then said too."""
    rows = list(_rows(request))
    name_width = max(len(view.name) for view, *_ in rows)
    lines = [f"{type(request).__name__}, {request.help['en'][:1].lower()}{request.help['en'][1:]}"]
    for view, value, default in rows:
        mark, was = (" ", "") if default is None else ("*", f"   (default {default})" if default else "")
        lines.append(f"{mark} {view.name:<{name_width}}  {value}{was}")
    return "\n".join(lines)


def as_html(request: "Request") -> str:
    """A table of the fields; what differs from the profile's default is bold, with the default beside it."""
    rows = []
    for view, value, default in _rows(request):
        cells = [escape(view.name), escape(value), escape(default or "")]
        if default is not None:
            cells[:2] = [f"<b>{cell}</b>" for cell in cells[:2]]
        mark = "" if default is None else f' style="border-left: 3px solid {ACCENT}"'
        rows.append((f'<tr{mark} title="{escape(view.help["en"], quote=True)}">', cells))
    return table_html(["field", "value", "default, where it differs"], rows, caption=_headline(request))


def table_html(columns: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]], *, caption: str = "") -> str:
    """A table.

    Args:
        columns: their titles, as text.
        rows: the opening tag of each row and its cells, as HTML.
        caption: as HTML.
    """
    cell = 'style="text-align: left; padding: 1px 12px 1px 6px"'
    titles = "".join(f"<th {cell}>{escape(name)}</th>" for name in columns)
    body = "".join(f"{row}{''.join(f'<td {cell}>{one}</td>' for one in cells)}</tr>" for row, cells in rows)
    above = f'<caption style="text-align: left; caption-side: top">{caption}</caption>' if caption else ""
    head_and_body = f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody>"
    return f'<table style="border-collapse: collapse">{above}{head_and_body}</table>'


def named_values(request: "Request") -> Iterator[tuple[str, Any]]:
    """The profile, the required fields, and those that differ from the profile's default: what makes it again."""
    defaults = defaults_of(type(request), request.profile)
    for name, view in fields_of(type(request)).items():
        value = getattr(request, name)
        if name == "profile" or view.required or value != defaults[name]:
            yield name, value


def _headline(request: "Request") -> str:
    return f"<b>{escape(type(request).__name__)}</b> {escape(request.help['en'])}"


def _rows(request: "Request") -> Iterator[tuple[FieldView, str, str | None]]:
    """Each field with its value, and its default where the value differs, which is empty for a required field."""
    defaults, named = defaults_of(type(request), request.profile), dict(named_values(request))
    if "profile" in defaults:
        defaults["profile"] = fields_of(type(request))["profile"].default
    for name, view in fields_of(type(request)).items():
        value = getattr(request, name)
        differs = name in named and (view.required or value != defaults[name])
        default = None if not differs else "" if view.required else in_words(view, defaults[name])
        shown = in_words(view, value)
        yield view, shown if shown in ("–", "auto") else f"{shown} {view.unit}".rstrip(), default


def in_words(view: FieldView, value: Any) -> str:
    """A value as a table shows it, on one short line: None as auto, or a dash where it stands for nothing."""
    if value is None:
        return "–" if view.kind == "str" else "auto"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        parts = [["auto" if part is None else str(part) for part in one.model_dump().values()] for one in value]
        return ", ".join(map(":".join, parts)) or "–"
    return _short(f"{value:g}" if isinstance(value, float) else " ".join(printable(str(value)).split())) or "–"


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def _default_in_words(model: "type[Request]", view: FieldView) -> str:
    """The default as Python writes it, and those of the profiles that have another one."""
    if view.required:
        return "required"
    others = {name: defaults_of(model, name)[view.name] for name in PROFILES} if view.name != "profile" else {}
    said = [f"in {name} {_short(repr(value))}" for name, value in others.items() if value != view.default]
    return f"default {', '.join([_short(repr(view.default)), *said])}"
