"""The parameters of a notebook: those that papermill gives are checked, and become values of a request's fields.

The cell tagged `parameters` has every field under its own name, in plain types: what is the same in all profiles as its
default, what the profile decides as the word `default`. A test holds the notebooks to that, so whatever a run was
asked, papermill can be asked too.

Papermill puts what it is given into a cell of its own after that one, and of a name that it does not know only warns.
So a notebook looks at that cell itself, in the history of its kernel.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wanavatar_lab.errors import RequestError
from wanavatar_lab.requests import Request, fields_of
from wanavatar_lab.requests.request import shown, suggestion

DEFAULT = "default"  # what stands in the cell for a value that the profile decides
OPEN = (DEFAULT, "auto")  # texts that stand where a number may
KINDS: dict[type, str] = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}
_INJECTED = "# Parameters\n"  # how papermill's cell begins


def chosen(request_class: type[Request], names: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a notebook gives to fields, without those that it leaves to the profile.

    Args:
        request_class: whose fields.
        names: of the notebook, with their values: `globals()`.

    Raises:
        RequestError: as `check_parameters`.
    """
    check_parameters(names, request_class)
    given = {name: names[name] for name in fields_of(request_class) if name in names}
    return {name: value for name, value in given.items() if value != DEFAULT}


def check_parameters(names: Mapping[str, Any], request_class: type[Request] | None = None) -> None:
    """Refuse what papermill gave to a notebook that has no such parameter, or one of another kind.

    Nothing happens where nothing was given, as in JupyterLab.

    Args:
        names: of the notebook, with their values: `globals()`.
        request_class: whose fields are looked at by the request itself.

    Raises:
        RequestError: all of it at once, with the names at fault and the nearest right ones.
    """
    given, known = _cells(names.get("In", ()))
    fields = fields_of(request_class) if request_class is not None else {}
    problems: list[tuple[str, str]] = []
    for name in given:
        if name not in known:
            problems.append((name, f"this notebook has no such parameter; {suggestion(name, known)}"))
        elif name in fields:
            # the request leaves a field as it is for None, where None is no value
            if names[name] is None and not fields[name].optional:
                problems.append((name, f"None is not allowed; give {fields[name].allowed}"))
        elif not _fits(names[name], known[name]):
            problems.append((name, f"{shown(names[name])} is not allowed; give {KINDS[type(known[name])]}"))
    if problems:
        raise RequestError(problems)


def _cells(history: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """What the newest cell of papermill's gives, and the parameters with their defaults of the cell before it."""
    places = [place for place, text in enumerate(history) if text.startswith(_INJECTED)]
    if not places:
        return [], {}
    given = [target.id for target in _targets(history[places[-1]])]
    for text in reversed(history[: places[-1]]):
        written = _written(text)
        if written:
            return given, written
    return [], {}


def _targets(code: str) -> Iterator[ast.Name]:
    for statement in ast.parse(code).body:
        if isinstance(statement, ast.Assign):
            yield from (target for target in statement.targets if isinstance(target, ast.Name))


def _written(code: str) -> dict[str, Any]:
    """The defaults of a cell of parameters, which is one that only has annotated names; of any other, none."""
    written: dict[str, Any] = {}
    try:
        for statement in ast.parse(code).body:
            if not isinstance(statement, ast.AnnAssign) or statement.value is None:
                return {}
            if isinstance(statement.target, ast.Name):
                written[statement.target.id] = ast.literal_eval(statement.value)
    except (SyntaxError, ValueError):  # a command of IPython's, or a value that is worked out
        return {}
    return written


def _fits(value: Any, default: Any) -> bool:
    """Whether a parameter whose default is this may have the value."""
    if isinstance(default, str):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return isinstance(value, str) or (default in OPEN and number)
    if isinstance(default, float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is type(default)
