"""How a field of a request is described, once, for every face.

`spec` goes into a field's annotation and holds what people read and what is allowed. `fields_of` reads it back as
plain values: the form, the command line, and the words of a refusal are all made from those.
"""

from dataclasses import dataclass
from functools import cache
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

Words = dict[str, str]  # language -> text

LANGUAGES = ("en", "ko", "zh")
FILE_WIDGETS = {
    "picture": "a picture file",
    "audio": "a sound file",
    "video": "a video file",
    "weights": "a weights file",
}
UNITS: dict[str, Words] = {
    "": {"en": "", "ko": "", "zh": ""},
    "px": {"en": "px", "ko": "픽셀", "zh": "像素"},
    "s": {"en": "s", "ko": "초", "zh": "秒"},
    "steps": {"en": "steps", "ko": "스텝", "zh": "步"},
    "frames": {"en": "frames", "ko": "프레임", "zh": "帧"},
    "segments": {"en": "segments", "ko": "구간", "zh": "段"},
}


def spec(
    *,
    widget: str,
    en: tuple[str, str],
    ko: tuple[str, str],
    zh: tuple[str, str],
    unit: str = "",
    group: Literal["basic", "advanced"] = "basic",
    options: dict[str, Words] | None = None,
    ui_range: tuple[float, float] | None = None,
    step: int | None = None,
    allowed: str = "",
    **bounds: Any,
) -> Any:
    """A field's description, to be put into its annotation.

    Args:
        widget: a hint for forms: text, textarea, int, float, checkbox, select, seed, size, loras, or a file:
            picture, audio, video, weights.
        en, ko, zh: label and help in each language.
        unit: a key of `UNITS`.
        group: what one sets always (basic) or seldom (advanced).
        options: the values of a choice with their labels.
        ui_range: the range that a slider shows, where it is narrower than what is allowed.
        step: only lower bound + n * step is allowed.
        allowed: what to give, in words, where the bounds do not say it all.
        bounds: ge, gt, le, min_length, max_length, as pydantic knows them.
    """
    words = {"en": en, "ko": ko, "zh": zh}
    extra: dict[str, Any] = {
        "unit": unit,
        "unit_labels": UNITS[unit],
        "group": group,
        "widget": widget,
        "labels": {language: text[0] for language, text in words.items()},
        "help": {language: text[1] for language, text in words.items()},
        "options": options or {},
        "ui_range": list(ui_range) if ui_range else None,
        "step": step,
        "allowed": allowed,
    }
    return Field(title=en[0], description=en[1], json_schema_extra=extra, **bounds)


@dataclass(frozen=True)
class FieldView:
    """One field of a request in plain values.

    `kind` is the type of a value: int, float, bool, str or list. `optional` fields may be None, which people write
    as "auto" (numbers) or leave empty. `above` is a lower bound that is itself not allowed. `default` is None where
    `required`. `allowed` says in words what can be given.
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
    step: int | None
    max_length: int | None
    options: dict[str, Words]
    ui_range: list[float] | None
    unit: str
    unit_labels: Words
    group: str
    labels: Words
    help: Words
    allowed: str

    @property
    def is_file(self) -> bool:
        """Whether the value is the path of a file to be read."""
        return self.widget in FILE_WIDGETS


@cache
def fields_of(model: type[BaseModel]) -> dict[str, FieldView]:
    """The fields of a request by name, in the order in which people set them."""
    return {name: _view(name, info) for name, info in model.model_fields.items()}


def _view(name: str, info: FieldInfo) -> FieldView:
    kind, optional = _kind(info.annotation)
    extra: dict[str, Any] = {**_PLAIN, "widget": _WIDGETS.get(kind, "text")}
    # a stage that others bring may have fields without a spec; those go by their name and description
    extra |= {"labels": dict.fromkeys(LANGUAGES, info.title or name.replace("_", " ").capitalize())}
    extra |= {"help": dict.fromkeys(LANGUAGES, info.description or "")}
    if isinstance(info.json_schema_extra, dict):
        extra |= {key: value for key, value in info.json_schema_extra.items() if key in extra}
    limits = {key: getattr(item, key) for item in info.metadata for key in ("ge", "gt", "le") if hasattr(item, key)}
    lengths = [item.max_length for item in info.metadata if hasattr(item, "max_length")]
    view = FieldView(
        name=name,
        kind=kind,
        required=info.is_required(),
        optional=optional,
        default=None if info.is_required() else info.get_default(call_default_factory=True, validated_data={}),
        minimum=limits.get("ge"),
        above=limits.get("gt"),
        maximum=limits.get("le"),
        max_length=lengths[0] if lengths else None,
        **extra,
    )
    return view if view.allowed else FieldView(**{**view.__dict__, "allowed": _allowed(view)})


_PLAIN: dict[str, Any] = {
    "unit": "",
    "unit_labels": UNITS[""],
    "group": "basic",
    "options": {},
    "ui_range": None,
    "step": None,
    "allowed": "",
}
_WIDGETS = {"int": "int", "float": "float", "bool": "checkbox", "list": "loras"}


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
        text = "a whole number" if view.kind == "int" else "a number"
        text += _range(view)
    elif view.kind == "str":
        text = "text" if view.max_length is None else f"text of at most {view.max_length} characters"
    else:
        text = f"a {view.kind}"
    if view.optional:
        text += ", or leave it empty" if view.kind == "str" else ", or 'auto'"
    return text


def _range(view: FieldView) -> str:
    text = ""
    if view.minimum is not None and view.maximum is not None:
        text = f" from {view.minimum:g} to {view.maximum:g}"
    elif view.minimum is not None:
        text = f" of at least {view.minimum:g}"
    elif view.above is not None:
        text = f" above {view.above:g}" + (f" and up to {view.maximum:g}" if view.maximum is not None else "")
    elif view.maximum is not None:
        text = f" up to {view.maximum:g}"
    if view.step:
        low = int(view.minimum or 0)
        text += f", in steps of {view.step} ({low}, {low + view.step}, {low + 2 * view.step}, ...)"
    return text
