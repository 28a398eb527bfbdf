"""Text, longer text, a tick, and a choice of a few."""

from typing import Any

import ipywidgets as widgets
from ipywidgets.widgets.widget_description import DescriptionStyle
from ipywidgets.widgets.widget_string import TextStyle

from wanavatar_lab.requests import FieldView, Request
from wanavatar_lab.ui.fields.control import WIDE, Control, shared
from wanavatar_lab.ui.language import language


class TextControl(Control):
    """A line of text, or several where the field's hint is `textarea`."""

    def __init__(self, view: FieldView, request_class: type[Request]) -> None:
        kind = widgets.Textarea if view.widget == "textarea" else widgets.Text
        self._box = kind(style=shared(TextStyle), layout=shared(widgets.Layout, **WIDE))
        super().__init__(view, [self._box])
        self._box.observe(self._changed, "value")

    def _read(self) -> str | None:
        text: str = self._box.value
        return None if self.view.optional and not text.strip() else text

    def _write(self, value: Any) -> None:
        self._box.value = "" if value is None else str(value)

    def _say(self) -> None:
        super()._say()
        self._box.description = self.label


class CheckboxControl(Control):
    """A tick."""

    def __init__(self, view: FieldView, request_class: type[Request]) -> None:
        self._box = widgets.Checkbox(indent=False, layout=shared(widgets.Layout, **WIDE))
        super().__init__(view, [self._box])
        self._box.observe(self._changed, "value")

    def _read(self) -> bool:
        return bool(self._box.value)

    def _write(self, value: Any) -> None:
        self._box.value = bool(value)

    def _say(self) -> None:
        super()._say()
        self._box.description = self.label


class SelectControl(Control):
    """One of the field's options, by their labels."""

    def __init__(self, view: FieldView, request_class: type[Request]) -> None:
        self._box = dropdown(list(view.options))
        super().__init__(view, [self._box])
        self._box.observe(self._changed, "value")

    def _read(self) -> str | None:
        chosen: str | None = self._box.value
        return chosen

    def _write(self, value: Any) -> None:
        self._box.value = value

    def _say(self) -> None:
        super()._say()
        self._box.description = self.label
        choose_among(self._box, [(words.get(language.code, name), name) for name, words in self.view.options.items()])


def dropdown(options: list[Any], *style_classes: str) -> widgets.Dropdown:
    """A choice that is as wide as its place."""
    looks = {"style": shared(DescriptionStyle), "layout": shared(widgets.Layout, **WIDE)}
    return widgets.Dropdown(options=options, _dom_classes=style_classes, **looks)


def choose_among(box: widgets.Dropdown, options: list[tuple[str, Any]]) -> None:
    """Give a box other options, and keep what is chosen where it is still among them."""
    chosen = box.value
    box.options = options  # which chooses the first of them
    if chosen in [value for _, value in options]:
        box.value = chosen
