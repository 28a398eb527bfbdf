"""What a person finds in a widget: its inputs by their accessible names, and what is written."""

import asyncio
import time
from collections.abc import Iterator
from html import unescape
from typing import Any

import ipywidgets as widgets

NAMED = (
    widgets.Text,
    widgets.Textarea,
    widgets.FloatText,
    widgets.BoundedFloatText,
    widgets.Checkbox,
    widgets.Dropdown,
    widgets.Button,
)


def shown(widget: Any) -> Iterator[Any]:
    """Every widget below this one that is not hidden, in the order of reading; this one too."""
    if widget.layout.display == "none":
        return
    yield widget
    for child in getattr(widget, "children", ()):
        yield from shown(child)


def everything(widget: Any) -> Iterator[Any]:
    """Every widget below this one; this one too."""
    yield widget
    for child in getattr(widget, "children", ()):
        yield from everything(child)


def named(widget: Any, name: str) -> Any:
    """The one shown input or button of this name, or else whose name begins with it."""
    found = [each for each in shown(widget) if isinstance(each, NAMED) and each.description.startswith(name)]
    found = [each for each in found if each.description == name] or found
    assert len(found) == 1, f"{len(found)} are called {name!r}: {[each.description for each in found]}"
    return found[0]


def text(widget: Any) -> str:
    """Everything that is written there and is no input."""
    return "\n".join(unescape(each.value) for each in shown(widget) if isinstance(each, widgets.HTML))


def alerts(widget: Any) -> str:
    """What is said as an error."""
    return "\n".join(line for line in text(widget).splitlines() if 'role="alert"' in line)


async def until(what: object, seconds: float = 20.0) -> None:
    """Let the event loop go on until `what()` is true."""
    end = time.monotonic() + seconds
    while not what():  # type: ignore[operator]
        assert time.monotonic() < end
        await asyncio.sleep(0.02)
