"""Values of some fields of a request: read as it reads them while others are still missing, and put into words."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import RequestError
from wanavatar_lab.requests import FieldView, Request, fields_of
from wanavatar_lab.ui.language import language

LONGEST_VALUE = 60  # characters of one that is put into words


def read_values(request_class: type[Request], values: dict[str, Any]) -> dict[str, Any]:
    """The values as the request reads them.

    Raises:
        RequestError: some of them are not allowed; what is not among them may still be missing.
    """
    # an empty text in a form is one that is yet to be written, not one that is wrong
    views = fields_of(request_class)
    blank = {name for name, value in values.items() if value == "" and name in views and views[name].required}
    given = {name: value for name, value in values.items() if name not in blank}
    try:
        request = request_class(**given, **{name: "-" for name, view in views.items() if _stands_in(name, view, given)})
    except RequestError as error:
        of_these = [problem for problem in error.problems if problem[0].partition("[")[0] in given]
        if of_these:
            raise RequestError(of_these) from None
        return values
    return {name: "" if name in blank else getattr(request, name) for name in values}


def same(value: Any, standing: Any) -> bool:
    """Whether a field of a request is what its control has; lists of adapters are written in two ways."""
    return value == standing or (value in ("", None, ()) and standing in ("", None, []))


def titled(request_class: type[Request], values: Mapping[str, Any]) -> str:
    """Values with the labels of their fields, in the language that is shown."""
    views = fields_of(request_class)
    return ", ".join(
        f"{language.of(views[name].labels)} {_short(views[name], value)}" for name, value in values.items()
    )


def _short(view: FieldView, value: Any) -> str:
    text = Path(str(value)).name if view.is_file else str(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _stands_in(name: str, view: FieldView, given: dict[str, Any]) -> bool:
    """Whether a field is to be given some text, so that the others can be read."""
    return view.required and view.kind == "str" and name not in given
