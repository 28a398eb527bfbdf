"""The parameters of a notebook: those from papermill are checked, and become values of a request's fields.

The cell tagged `parameters` has every field under its own name, in plain types: a default that all profiles share as it
is, one that depends on the profile as the word `default`. A test holds the notebooks to that, so papermill can set
every field.

Papermill writes its values into a cell after that one, and only warns of a name it does not know. So a notebook checks
that cell itself, in the history of its kernel.

Papermill's `-p` turns what looks like a number, True, False or None into that, before a notebook sees it: `-p prompt
1984` is the number 1984, and `-p person 007` is 7. A whole number for a text is taken as text, with a warning, since
zeros before it are lost; any other is refused. `-r` passes every text as it is.

`interactive`, which every notebook has, decides whether its widgets are shown or recorded: see `ui/record.py`.
"""

import ast
import logging
from collections.abc import Collection, MutableMapping, Sequence
from typing import Any

from wanavatar_lab.errors import RequestError
from wanavatar_lab.requests import FieldView, Request, fields_of
from wanavatar_lab.requests.request import must_be, suggestion
from wanavatar_lab.ui.record import run_headless

DEFAULT = "default"  # stands in the cell for a value that depends on the profile
OPEN = (DEFAULT, "auto")  # texts in whose place a number may be given
KINDS: dict[type, str] = {bool: "True or False", int: "an integer", float: "a number", str: "text"}
_TAKEN_AS_TEXT = (
    "%s is the number %s to papermill's -p, and is taken as the text '%s'. If it was given otherwise, as with zeros "
    "before it, pass it with -r."
)
_INJECTED = "# Parameters\n"  # the first line of papermill's cell

_log = logging.getLogger(__name__)


def chosen(
    request_class: type[Request], names: MutableMapping[str, Any], *, without: Collection[str] = ()
) -> dict[str, Any]:
    """The values that a notebook gives to fields, without those that it leaves to the profile.

    Args:
        request_class: whose fields.
        names: as for `check_parameters`.
        without: fields that the cell writes out itself; they are checked all the same.

    Raises:
        RequestError: as `check_parameters`.
    """
    check_parameters(names, request_class)
    given = [name for name in fields_of(request_class) if name not in without and names.get(name, DEFAULT) != DEFAULT]
    return {name: names[name] for name in given}


def check_parameters(names: MutableMapping[str, Any], request_class: type[Request] | None = None) -> None:
    """Refuse papermill's parameters that the notebook does not have, or has with another type.

    A whole number for a text becomes text in `names`, which is logged.

    Without papermill's cell, as in JupyterLab, nothing is checked. With `interactive` False, widgets are recorded.

    Args:
        names: of the notebook, with their values: `globals()`.
        request_class: whose fields the request itself will check.

    Raises:
        RequestError: all problems at once, with the names at fault and the nearest right ones.
    """
    given, known = _cells(names.get("In", ()))
    fields = fields_of(request_class) if request_class is not None else {}
    problems: list[tuple[str, str]] = []
    for name in given:
        if name not in known:
            problems.append((name, f"this notebook has no such parameter; {suggestion(name, known)}"))
        elif _is_text(known[name], fields.get(name)) and isinstance(names[name], bool | int | float):
            if type(names[name]) is int:
                names[name] = str(names[name])
                _log.warning(_TAKEN_AS_TEXT, name, names[name], names[name])
            else:
                problems.append((name, f"{must_be('text', names[name])}; papermill's -p reads it so: pass it with -r"))
        elif name in fields:
            # a form reads None as "leave the field as it is", which would hide the mistake
            if names[name] is None and not fields[name].optional:
                problems.append((name, must_be(fields[name].allowed, None)))
        elif not _fits(names[name], known[name]):
            problems.append((name, must_be(KINDS[type(known[name])], names[name])))
    if problems:
        raise RequestError(problems)
    run_headless(not names.get("interactive", True))


def _cells(history: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The names in the newest cell of papermill's, and the parameters with their defaults of the cell before it."""
    places = [place for place, text in enumerate(history) if text.startswith(_INJECTED)]
    if not places:
        return [], {}
    assigned = [each for each in ast.parse(history[places[-1]]).body if isinstance(each, ast.Assign)]
    given = [target.id for each in assigned for target in each.targets if isinstance(target, ast.Name)]
    defaults = next(filter(None, map(_defaults, reversed(history[: places[-1]]))), None)
    return (given, defaults) if defaults else ([], {})


def _defaults(code: str) -> dict[str, Any]:
    """The parameters in a cell that has nothing but annotated names; of any other cell, none."""
    defaults: dict[str, Any] = {}
    try:
        for statement in ast.parse(code).body:
            if not isinstance(statement, ast.AnnAssign) or statement.value is None:
                return {}
            if isinstance(statement.target, ast.Name):
                defaults[statement.target.id] = ast.literal_eval(statement.value)
    except (SyntaxError, ValueError):  # an IPython command, or a value that is computed
        return {}
    return defaults


def _is_text(default: Any, view: FieldView | None) -> bool:
    """Whether a parameter with this default, or of this field, is a text that no number can stand for."""
    return view.kind == "str" if view is not None else isinstance(default, str) and default not in OPEN


def _fits(value: Any, default: Any) -> bool:
    """Whether a parameter with this default may have the value."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, str):
        return isinstance(value, str) or (default in OPEN and is_number)
    return is_number if isinstance(default, float) else type(value) is type(default)
