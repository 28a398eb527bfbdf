"""Small parts of forms and panels: boxes, buttons, choices and HTML texts, with layouts that many of them share."""

import re
from functools import cache
from html import escape
from typing import Any, TypeVar

import ipywidgets as widgets
from ipywidgets.widgets.widget_description import DescriptionStyle
from ipywidgets.widgets.widget_string import HTMLStyle, TextStyle

from wanavatar_lab.files import printable
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.messages import in_language

LABEL_WIDTH = {"description_width": "initial"}
WIDE = {"width": "auto"}
ROW = {"flex_flow": "row wrap"}
AS_WIDE_AS_ITS_WORDS = {"width": "auto", "align_self": "flex-start"}

_Widget = TypeVar("_Widget", bound=widgets.DOMWidget)

# style and layout of each kind of widget: a text and a choice are as wide as their container, a button as its text
_LOOKS: dict[Any, tuple[Any, dict[str, str]]] = {
    **dict.fromkeys((widgets.VBox, widgets.HBox), (None, {})),
    **dict.fromkeys((widgets.Text, widgets.Textarea), (TextStyle, WIDE)),
    **dict.fromkeys((widgets.FloatText, widgets.BoundedFloatText), (DescriptionStyle, {})),
    widgets.Dropdown: (DescriptionStyle, WIDE),
    widgets.Button: (widgets.ButtonStyle, AS_WIDE_AS_ITS_WORDS),
    widgets.HTML: (HTMLStyle, {}),
}


@cache
def shared(kind: type[Any], **traits: Any) -> Any:
    """A layout or a style that many widgets use and none changes.

    Each one is a message to the page, which shows a form the sooner the fewer messages there are.
    """
    return kind(**traits)


def bare(kind: type[_Widget], *style_classes: str, **traits: Any) -> _Widget:
    """A widget without a layout or style of its own: it has those that all bare ones of its kind share."""
    style, layout = _LOOKS[kind]
    looks = {"layout": shared(widgets.Layout, **layout), **({"style": shared(style)} if style else {})}
    return kind(_dom_classes=style_classes, **looks | traits)


def refill(box: widgets.Box, *children: widgets.Widget) -> None:
    """Replace what is in a box, and close what was in it."""
    for before in box.children:
        before.close()
    box.children = children


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
    """A note under a control, in the language shown, as HTML."""
    return f'<div class="wl-help" lang="{language.code}"><small>{with_code(text)}</small></div>'


def tip(text: str, name: str) -> str:
    """A mark beside a label, as HTML, whose text opens at a click or a touch; `name` is what a screen reader says.

    `static/look.js` closes it at a click elsewhere and at Escape.
    """
    title, name = escape(printable(text).replace("`", ""), quote=True), escape(name, quote=True)
    mark = f'<summary title="{title}" aria-label="{name}" data-lm-suppress-shortcuts="true">?</summary>'
    card = f'<div class="wl-tip-card">{with_code(text)}</div>'
    return f'<details class="wl-tip" lang="{language.code}">{mark}{card}</details>'


def alert(text: str) -> str:
    """An error in the language shown, as HTML that a screen reader reads out at once; what is in backticks is code."""
    said = with_code(in_language(text))
    return (
        f'<div class="wl-alert" lang="{language.code}" role="alert" style="color:var(--wl-bad, #b3261e)">{said}</div>'
    )


def with_code(text: str) -> str:
    """A text as HTML in which a command in backticks can be selected at a click."""
    return re.sub(r"`([^`]+)`", r'<code class="wl-code">\1</code>', escape(printable(text)))
