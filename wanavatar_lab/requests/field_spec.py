"""How a field of a request is described, once for every interface: form, command line, papermill, API, error messages.

`spec` goes into a field's annotation; `fields_of` reads it back as plain values. English is written in the code, Korean
and Chinese are in `words.json`, keyed by the English text as gettext does.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

Words = dict[str, str]  # language -> text

LANGUAGES = ("en", "ko", "zh")
FILE_WIDGETS = {
    "picture": "a picture file",
    "audio": "a sound file",
    "media": "a sound or video file",
    "video": "a video file",
    "weights": "a weights file",
}
FIELDS = "\n\nFields:\n\n"  # in the docstring of a request, between what it is and its fields
_TRANSLATIONS: dict[str, Words] = json.loads((Path(__file__).parent / "words.json").read_text(encoding="utf-8"))


def translated(text: str | Words) -> Words:
    """`text` in every language, by `words.json` or as a custom stage gives it; English for a missing translation."""
    if isinstance(text, str):
        return {**dict.fromkeys(LANGUAGES, text), **_TRANSLATIONS.get(text, {})}
    return {**dict.fromkeys(LANGUAGES, text["en"]), **text}


def spec(
    label: str | Words,
    help: str | Words = "",
    *,
    widget: str = "",
    unit: str = "",
    group: Literal["basic", "advanced"] = "basic",
    options: Mapping[str, str | Words] | None = None,
    ui_range: tuple[float, float] | None = None,
    step: int | None = None,
    allowed: str = "",
    **bounds: Any,
) -> Any:
    """A field's description, to be put into its annotation.

    Args:
        label, help: in English, with the translations in `words.json`; or in every language. Without `help` the
            docstring below the field is taken.
        widget: a hint for forms: text, textarea, int, float, checkbox, select, seed, size, loras, or a file:
            picture, audio, video, media (sound or video), weights. Without it the type of the field decides.
        unit: of a number, in English as the label.
        group: `basic` is always shown in a form, `advanced` when it is unfolded.
        options: the values of a choice with their labels.
        ui_range: the range of a slider, where it is narrower than what is allowed.
        step: only lower bound + n * step is allowed.
        allowed: the end of "must be ...", where the bounds do not say it all.
        bounds: ge, gt, le, min_length, max_length, as pydantic knows them.
    """
    described: dict[str, Any] = {
        "labels": translated(label),
        "help": help and translated(help),
        "widget": widget or (options and "select"),
        "unit": unit,
        "unit_labels": translated(unit),
        "group": group,
        "options": {value: translated(text) if text else {} for value, text in (options or {}).items()},
        "ui_range": ui_range and list(ui_range),
        "step": step,
        "allowed": allowed,
    }
    given = {key: value for key, value in described.items() if value}
    return Field(json_schema_extra=given, **bounds)


@dataclass(frozen=True, kw_only=True)
class FieldView:
    """One field of a request in plain values.

    Attributes:
        kind: the type of a value: int, float, bool, str or list.
        default: None where `required`.
        optional: the value may be None, which is written as "auto" (numbers) or left empty (text).
        minimum, above, maximum: the bounds; `above` is a lower bound that is itself not allowed.
        step: only minimum + n * step is allowed.
        allowed: what can be given, in words, as the end of "must be …".
    """

    name: str
    kind: str
    widget: str
    required: bool
    optional: bool
    default: Any
    minimum: float | None
    above: float | None
    maximum: float | None
    max_length: int | None
    labels: Words
    help: Words
    step: int | None = None
    options: dict[str, Words] = field(default_factory=dict)
    ui_range: list[float] | None = None
    unit: str = ""
    unit_labels: Words = field(default_factory=lambda: translated(""))
    group: str = "basic"
    allowed: str = ""

    @property
    def is_file(self) -> bool:
        """Whether the value is the path of an input file."""
        return self.widget in FILE_WIDGETS


@cache
def fields_of(model: type[BaseModel]) -> dict[str, FieldView]:
    """The fields of a request by name, in the order of a form."""
    return {name: _view(name, info) for name, info in model.model_fields.items()}


def describe_schema(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Add to the JSON schema of a request what a form needs: labels, help, widget, options, ..."""
    added = ("labels", "help", "widget", "unit", "unit_labels", "group", "options", "ui_range", "step", "allowed")
    if "description" in schema:  # which has every field below
        schema["description"] = schema["description"].partition(FIELDS)[0]
    for name, view in fields_of(model).items():
        shown = {key: getattr(view, key) for key in added}
        schema["properties"][name] |= {"title": view.labels["en"], "description": view.help["en"], **shown}


def _view(name: str, info: FieldInfo) -> FieldView:
    kind, optional = _kind(info.annotation)
    bounds = ("ge", "gt", "le", "max_length")
    limits = {key: getattr(item, key) for item in info.metadata for key in bounds if hasattr(item, key)}
    described: dict[str, Any] = {
        # a field of a custom stage may have no spec: its name and docstring are shown
        "widget": _WIDGETS.get(kind, "text"),
        "labels": translated(info.title or name.replace("_", " ").capitalize()),
        "help": translated(" ".join((info.description or "").split())),
    }
    if isinstance(info.json_schema_extra, dict):
        known = FieldView.__dataclass_fields__
        described |= {key: value for key, value in info.json_schema_extra.items() if key in known}
    view = FieldView(
        name=name,
        kind=kind,
        required=info.is_required(),
        optional=optional,
        default=None if info.is_required() else info.get_default(call_default_factory=True, validated_data={}),
        minimum=limits.get("ge"),
        above=limits.get("gt"),
        maximum=limits.get("le"),
        max_length=limits.get("max_length"),
        **described,
    )
    return view if view.allowed else replace(view, allowed=_allowed(view))


_WIDGETS = {"int": "int", "float": "float", "bool": "checkbox", "list": "loras"}  # where there is no spec


def _kind(annotation: Any) -> tuple[str, bool]:
    """The kind of value that an annotation stands for, and whether None is one too."""
    options = get_args(annotation)
    if NoneType in options:
        (inner, *_) = (option for option in options if option is not NoneType)
        return _kind(inner)[0], True
    if get_origin(annotation) is Literal:
        return "str", False
    if get_origin(annotation) in (tuple, list):
        return "list", False
    return str(getattr(annotation, "__name__", annotation)), False


def _allowed(view: FieldView) -> str:
    if view.is_file:
        text = f"the path of {FILE_WIDGETS[view.widget]}"
    elif view.options:
        text = "one of " + ", ".join(repr(option) for option in view.options)
    elif view.kind == "bool":
        text = "true or false"
    elif view.kind in ("int", "float"):
        text = "an integer" if view.kind == "int" else "a number"
        text += _range(view)
    elif view.kind == "str":
        text = "text" if view.max_length is None else f"text of at most {view.max_length} characters"
    else:
        text = f"a {view.kind}"
    if view.optional:
        text += ", or empty" if view.kind == "str" else ", or 'auto'"
    return text


def _plain(number: float) -> str:
    """A bound as people write it: 20 for 20.0, and 10000000, which six digits would make 1e+07."""
    return f"{number:.15g}"


def _range(view: FieldView) -> str:
    text = ""
    if view.minimum is not None and view.maximum is not None:
        text = f" from {_plain(view.minimum)} to {_plain(view.maximum)}"
    elif view.minimum is not None:
        text = f" of at least {_plain(view.minimum)}"
    elif view.above is not None:
        text = f" above {_plain(view.above)}"
        text += f" and up to {_plain(view.maximum)}" if view.maximum is not None else ""
    elif view.maximum is not None:
        text = f" up to {_plain(view.maximum)}"
    if view.step:
        low = int(view.minimum or 0)
        text += f", in steps of {view.step} ({low}, {low + view.step}, {low + 2 * view.step}, ...)"
    return text
