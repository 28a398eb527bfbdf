"""The words in which a request is refused: the field, the value, and what to give instead."""

import difflib
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from wanavatar_lab.errors import RequestError
from wanavatar_lab.requests.spec import fields_of

LONGEST_SHOWN = 80  # characters of a value or of a name that a message repeats

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = LONGEST_SHOWN
_short.maxlevel = 3


def refused(advice: str) -> PydanticCustomError:
    """An error for a validator to raise where the field's own `allowed` does not say enough.

    Args:
        advice: what to give instead, as the end of the sentence "<value> is not allowed; ...".
    """
    return PydanticCustomError("refused", "{advice}", {"advice": advice})


def shown(value: Any) -> str:
    """A value as a message repeats it: short, and always printable."""
    return _short.repr(value)


def suggestion(name: str, known: Iterable[str]) -> str:
    """What to say about a name that is not known: the nearest one, or all."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"


def explain(model: type[BaseModel], error: ValidationError) -> RequestError:
    """Turn pydantic's report on `model` into an error that names every problem once."""
    problems: dict[str, str] = {}
    for entry in error.errors(include_url=False):
        place, owner, name = _place(model, entry["loc"])
        problems.setdefault(place, _words(owner, name, entry))
    return RequestError(list(problems.items()))


def _place(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[str, type[BaseModel], str]:
    """The name of the place at fault (`loras[0].high_weight`), the model it belongs to, and its name there."""
    place, owner, name = "", model, ""
    for index, part in enumerate(loc):
        if isinstance(part, int):
            place += f"[{part}]"
            if index + 1 < len(loc):
                owner = _item_model(owner, name)
        else:
            trimmed = part if len(part) <= LONGEST_SHOWN else part[: LONGEST_SHOWN - 1] + "…"
            place += f".{trimmed}" if place else trimmed
            name = part
    return place, owner, name


def _item_model(model: type[BaseModel], name: str) -> type[BaseModel]:
    """The model of the items of the list field `name`."""
    item = model.model_fields[name].annotation.__args__[0]  # type: ignore[union-attr]
    return item if isinstance(item, type) and issubclass(item, BaseModel) else model


def _words(model: type[BaseModel], name: str, entry: Mapping[str, Any]) -> str:
    views = fields_of(model)
    if entry["type"] == "extra_forbidden":
        return f"there is no such field; {suggestion(name, views)}"
    if entry["type"] == "refused":
        return f"{shown(entry['input'])} is not allowed; {entry['ctx']['advice']}"
    advice = f"give {views[name].allowed}" if name in views else entry["msg"]
    if entry["type"] == "missing":
        return f"is missing; {advice}"
    return f"{shown(entry['input'])} is not allowed; {advice}"
