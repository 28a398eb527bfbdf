"""Whole and broken numbers within their bounds, with an automatic state where the field may be left open."""

import secrets
from typing import Any

import ipywidgets as widgets
from ipywidgets.widgets.widget_description import DescriptionStyle

from wanavatar_lab.requests import FieldView, Request
from wanavatar_lab.ui.fields.control import ROW, Control, bare_button, shared
from wanavatar_lab.ui.language import language

WORDS = {
    "automatic": {"en": "{label}: automatic", "ko": "{label}: 자동", "zh": "{label}：自动"},
    "dice": {"en": "Throw the dice", "ko": "주사위 굴리기", "zh": "掷骰子"},
}

_WITHOUT_BOUND = 10**9
_FINE, _COARSE = 0.01, 0.1  # what an arrow key adds to a broken number, in a narrow range and in a wide one


class NumberControl(Control):
    """A number. Whoever types one outside the bounds sees it go to the nearer bound."""

    def __init__(self, view: FieldView, request_class: type[Request]) -> None:
        self._box = bounded_number(view)
        row = [self._box]
        self._automatic: widgets.Checkbox | None = None
        if view.optional:
            self._automatic = widgets.Checkbox(value=True, indent=False)
            self._automatic.observe(self._switched, "value")
            self._box.disabled = True
            row.append(self._automatic)
        super().__init__(view, [widgets.HBox(row, layout=shared(widgets.Layout, **ROW))])
        self._box.observe(self._changed, "value")

    def _read(self) -> float | None:
        if self._automatic is not None and self._automatic.value:
            return None
        number: float = self._box.value
        return number

    def _write(self, value: Any) -> None:
        if self._automatic is not None:
            self._automatic.value = value is None
        if value is not None:
            self._box.value = int(value) if self.view.kind == "int" else float(value)

    def _switched(self, _: object) -> None:
        assert self._automatic is not None
        self._box.disabled = self._automatic.value
        self._changed()

    def _say(self) -> None:
        super()._say()
        self._box.description = self.label
        if self._automatic is not None:
            self._automatic.description = language.of(WORDS["automatic"]).format(label=language.of(self.view.labels))


class SeedControl(NumberControl):
    """The seed: -1 draws one when the run starts; the dice draws one now, so that it can be used again."""

    def __init__(self, view: FieldView, request_class: type[Request]) -> None:
        self._dice = bare_button()
        super().__init__(view, request_class)
        (row, *_) = self.children
        row.children = [*row.children, self._dice]
        self._dice.on_click(self._throw)

    def _throw(self, _: object) -> None:
        self._box.value = secrets.randbelow(int(self.view.maximum or _WITHOUT_BOUND) + 1)

    def _say(self) -> None:
        super()._say()
        self._dice.description = language.of(WORDS["dice"])


def bounded_number(view: FieldView) -> widgets.BoundedIntText | widgets.BoundedFloatText:
    """The box for a number of this field, without its label, at the lower bound or at zero."""
    lowest = view.minimum if view.minimum is not None else view.above
    low = -_WITHOUT_BOUND if lowest is None else lowest
    high = _WITHOUT_BOUND if view.maximum is None else view.maximum
    start = min(max(low, 0), high)
    looks = {"style": shared(DescriptionStyle), "layout": shared(widgets.Layout)}
    if view.kind == "int":
        # a browser counts steps from 0: from a lower bound that is no multiple, arrows would miss every allowed number
        step = view.step if view.step and not int(low) % view.step else 1
        bounds = {"min": int(low), "max": int(high), "value": int(start), "step": step}
        return widgets.BoundedIntText(**bounds, **looks)
    arrow = _FINE if high - low <= 2 else _COARSE
    return widgets.BoundedFloatText(min=low, max=high, value=start, step=arrow, **looks)
