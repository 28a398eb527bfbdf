"""Small parts of forms and panels: boxes, buttons, choices and HTML texts, with layouts that many of them share."""

from collections.abc import Sequence
from functools import cache
from html import escape
from typing import Any, TypeVar

import ipywidgets as widgets
from ipywidgets.widgets.widget_description import DescriptionStyle
from ipywidgets.widgets.widget_string import HTMLStyle, TextStyle

from wanavatar_lab.ui.language import language

LABEL_WIDTH = {"description_width": "initial"}
WIDE = {"width": "auto"}
ROW = {"flex_flow": "row wrap"}
AS_WIDE_AS_ITS_WORDS = {"width": "auto", "align_self": "flex-start"}
ERROR_COLOUR = "var(--wl-bad, #b3261e)"

_Box = TypeVar("_Box", bound=widgets.Box)
_Input = TypeVar("_Input", bound=widgets.DOMWidget)


@cache
def shared(kind: type[Any], **traits: Any) -> Any:
    """A layout or a style that many widgets use and none changes.

    Each one is a message to the page, which shows a form the sooner the fewer messages there are.
    """
    return kind(**traits)


def bare_html(*style_classes: str) -> widgets.HTML:
    """A text without a layout or style of its own."""
    return widgets.HTML(layout=shared(widgets.Layout), style=shared(HTMLStyle), _dom_classes=style_classes)


def bare_box(kind: type[_Box], children: Sequence[widgets.Widget] = (), *style_classes: str) -> _Box:
    """A box without a layout of its own."""
    return kind(children, layout=shared(widgets.Layout), _dom_classes=style_classes)


def bare_button(*style_classes: str, **traits: Any) -> widgets.Button:
    """A button as wide as its text."""
    looks = {"layout": shared(widgets.Layout, **AS_WIDE_AS_ITS_WORDS), "style": shared(widgets.ButtonStyle)}
    return widgets.Button(_dom_classes=style_classes, **looks, **traits)


def bare_input(kind: type[_Input], **traits: Any) -> _Input:
    """A text or number input without a style of its own; a text is as wide as its container."""
    is_text = issubclass(kind, widgets.Text | widgets.Textarea)
    looks = {
        "style": shared(TextStyle if is_text else DescriptionStyle),
        "layout": shared(widgets.Layout, **(WIDE if is_text else {})),
    }
    return kind(**looks | traits)


def dropdown(options: list[Any], *style_classes: str) -> widgets.Dropdown:
    """A choice as wide as its container."""
    looks = {"style": shared(DescriptionStyle), "layout": shared(widgets.Layout, **WIDE)}
    return widgets.Dropdown(options=options, _dom_classes=style_classes, **looks)


def set_options(box: widgets.Dropdown, options: list[tuple[str, Any]]) -> None:
    """Replace the options of a choice; the selected value stays selected if it is among them."""
    selected = box.value
    box.options = options  # which selects the first of them
    if selected in [value for _, value in options]:
        box.value = selected


def heading(level: int, title: str, text: str) -> str:
    """A title and a sentence below it, in the language shown, as HTML."""
    return f'<div lang="{language.code}"><h{level}>{escape(title)}</h{level}><p>{escape(text)}</p></div>'


def small(text: str) -> str:
    """Help under a control, in the language shown, as HTML."""
    return f'<div class="wl-help" lang="{language.code}"><small>{escape(text)}</small></div>'


def alert(text: str) -> str:
    """An error as HTML that a screen reader reads out as soon as it appears."""
    return f'<div class="wl-alert" role="alert" style="color:{ERROR_COLOUR}">{escape(text)}</div>'
