"""Controls of a form: text, numbers, ticks, choices, the seed and the resolution.

Every control has a label, help that opens beside it, an error below it, and a value in the request's own terms. Files
are in `file_field`, LoRAs in `lora_cards`.
"""

import math
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import traitlets

from wanavatar_lab.profiles import PROFILES, SIZE_MULTIPLE
from wanavatar_lab.requests import STAGE_REQUESTS, FieldView, Request
from wanavatar_lab.requests.fields import LARGEST_SEED
from wanavatar_lab.requests.sizes import NAMED_AREAS, fit_into
from wanavatar_lab.ui.elements import ROW, WIDE, alert, bare, set_options, shared, small, tip
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.prompt_extension import PromptExtension
from wanavatar_lab.ui.widget import LabBox

if TYPE_CHECKING:
    from wanavatar_lab.ui.prompt_history import PromptHistory

# widget hints of fields that take a whole row of the form
WIDE_HINTS = frozenset({"textarea", "seed", "loras", "picture", "audio", "media", "video", "weights"})
USUAL_SIZES = ((480, 832), (832, 480), (720, 1280), (1280, 720))  # what Wan2.2 was trained for
WORDS = read_words(__file__, "fields")

_OTHER = "other"


class Control(LabBox):
    """One field of a request.

    A subclass takes the field and the request's class, and makes the inputs. Where one of them, `box`, has the field's
    value and label, that is all; otherwise it reads the value in `_read`, sets it in `_write`, labels the inputs in
    `_write_labels`, and calls `_changed` when a person has changed something.

    Attributes:
        error: shown below the control; empty where there is none.
    """

    error = traitlets.Unicode("")

    def __init__(self, view: FieldView, inputs: Sequence[widgets.Widget], *style_classes: str, box: Any = None) -> None:
        self.view, self._box = view, box
        self._note = bare(widgets.HTML)
        self._listeners: list[Callable[[], None]] = []
        self._by_program = False  # while a program changes the inputs, which is no change by a person
        wide = ["wl-wide"] if view.widget in WIDE_HINTS or view.name == "profile" else []
        classes = ["wl-field", *style_classes, f"wl-of-{view.name}", *wide]
        super().__init__([*inputs, self._note], layout=shared(widgets.Layout), _dom_classes=classes)
        self.observe(lambda _: self._annotate(), "error")
        if box is not None:
            box.observe(self._changed, "value")

    @property
    def value(self) -> Any:
        """The value in the request's own terms: None is automatic or empty."""
        return self._read()

    @value.setter
    def value(self, value: Any) -> None:
        with self._writing():
            self._write(value)

    @property
    def label(self) -> str:
        """The field's label in the language shown, with its unit if the label does not name it."""
        label, unit = language.of(self.view.labels), language.of(self.view.unit_labels)
        # as a whole word: "Pauses" does not name the "s" of seconds. Korean and Chinese do not separate words by spaces
        named = not unit or re.search(rf"(?<![a-z]){re.escape(unit)}(?![a-z])", label, re.IGNORECASE)
        return label if named else WORDS.text("with_unit", label=label, unit=unit)

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` when a person has changed the value, not when a program has."""
        self._listeners.append(listener)

    def change(self, value: Any) -> None:
        """Set the value on behalf of a person who did something elsewhere in the form."""
        self.value = value
        self._changed()

    def connect(self, controls: Mapping[str, "Control"]) -> None:
        """Receive all controls of the form, this one among them; most controls do not use the others."""

    def complete(self) -> None:
        """Make what the control can be drawn without, once; most controls have no such thing."""

    def form_changed(self) -> None:
        """React to a changed value anywhere in the form; most controls do not."""

    def set_profile(self, profile: str) -> None:
        """React to another profile; most controls do not."""

    def show_words(self) -> None:
        """Put labels and help into the language shown."""
        with self._writing():
            self._write_labels()
            self._annotate()

    def _read(self) -> Any:
        return self._box.value

    def _write(self, value: Any) -> None:
        self._box.value = value

    def _write_labels(self) -> None:
        self._box.description = self.label

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Changes in this context are made by a program."""
        before, self._by_program = self._by_program, True
        try:
            yield
        finally:
            self._by_program = before

    def _annotate(self) -> None:
        label, help_text, allowed = language.of(self.view.labels), language.of(self.view.help), self._range()
        notes = [
            tip(help_text, WORDS.text("help", label=label)) if help_text else "",
            small(allowed) if allowed else "",
        ]
        self._note.value = "\n".join(filter(None, [*notes, alert(self.error) if self.error else ""]))

    def _range(self) -> str:
        """The numbers that are allowed, in the language shown; "" where any value is or the inputs show all."""
        return ""

    def _changed(self, _: object = None) -> None:
        if not self._by_program:
            for listener in self._listeners:
                listener()


class TextControl(Control):
    """A line of text, or several where the field's hint is `textarea`; a prompt can be extended."""

    def __init__(self, view: FieldView, request_class: type[Request]) -> None:
        box = bare(widgets.Textarea if view.widget == "textarea" else widgets.Text)
        self._stage = request_class.stage
        self._history: PromptHistory | None = None
        self._extension = PromptExtension(self, request_class.stage) if view.name == "prompt" else None
        super().__init__(view, [box, *([self._extension] if self._extension else [])], box=box)

    def complete(self) -> None:
        """Offer earlier prompts."""
        if self._extension is not None and self._history is None:
            from wanavatar_lab.ui.prompt_history import PromptHistory  # a form is drawn sooner without its script

            self._history = PromptHistory(self, self._stage)
            self.children = [self._box, self._extension, self._note, self._history]

    def set_profile(self, profile: str) -> None:
        """Offer what the profile can do with a prompt."""
        if self._extension is not None:
            self._extension.set_profile(profile)

    def _read(self) -> Any:
        return None if self.view.optional and not self._box.value.strip() else self._box.value

    def _write(self, value: Any) -> None:
        self._box.value = "" if value is None else str(value)


class CheckboxControl(Control):
    """A tick."""

    def __init__(self, view: FieldView, request_class: type[Request]) -> None:
        box = widgets.Checkbox(indent=False, layout=shared(widgets.Layout, **WIDE))
        super().__init__(view, [box], box=box)


class SelectControl(Control):
    """One of the field's options, by their labels."""

    def __init__(self, view: FieldView, request_class: type[Request]) -> None:
        super().__init__(view, [box := bare(widgets.Dropdown, options=list(view.options))], box=box)

    def _write_labels(self) -> None:
        super()._write_labels()
        set_options(self._box, [(words.get(language.code, name), name) for name, words in self.view.options.items()])


class NumberControl(Control):
    """A number, or automatic where the field is optional. Its range is shown, and one outside of it is an error."""

    def __init__(self, view: FieldView, request_class: type[Request], *beside: widgets.Widget) -> None:
        box = number_input(view)
        self._automatic = widgets.Checkbox(value=True, indent=False) if view.optional else None
        row = [box, *([self._automatic] if self._automatic else []), *beside]
        super().__init__(view, [widgets.HBox(row, layout=shared(widgets.Layout, **ROW))], box=box)
        if self._automatic is not None:
            box.disabled = True
            self._automatic.observe(self._switched, "value")

    def _read(self) -> Any:
        if self._automatic is not None and self._automatic.value:
            return None
        # an integer field refuses 1.5 with its reason, where an input for integers would make it 1
        value = self._box.value
        return int(value) if self.view.kind == "int" and value.is_integer() else value

    def _write(self, value: Any) -> None:
        if self._automatic is not None:
            self._automatic.value = value is None
        if value is not None:
            self._box.value = float(value)

    def _range(self) -> str:
        return range_of(self.view)

    def _switched(self, change: Any) -> None:
        self._box.disabled = change["new"]
        self._changed()

    def _write_labels(self) -> None:
        super()._write_labels()
        if self._automatic is not None:
            self._automatic.description = WORDS.text("automatic", label=language.of(self.view.labels))


class SeedControl(NumberControl):
    """The seed: -1 draws one when the run starts; the buttons draw one now, or take the one that a run has used."""

    def __init__(self, view: FieldView, request_class: type[Request]) -> None:
        self._dice, self._last = bare(widgets.Button), bare(widgets.Button, disabled=True)
        self._used: int | None = None
        super().__init__(view, request_class, self._dice, self._last)
        self._dice.on_click(lambda _: self.change(secrets.randbelow(LARGEST_SEED + 1)))
        self._last.on_click(lambda _: self.change(self._used))

    def offer(self, seed: int) -> None:
        """Offer the seed that a run has used, which may have been drawn."""
        self._used, self._last.disabled = seed, False
        self._last.tooltip = str(seed)

    def _write_labels(self) -> None:
        super()._write_labels()
        self._dice.description = WORDS.text("dice")
        self._last.description = WORDS.text("last_seed")


def range_of(view: FieldView) -> str:
    """The numbers that a field allows, in the language shown; "" where any number is."""
    bounds: dict[str, str] = {}
    for name, bound in (("low", view.above if view.minimum is None else view.minimum), ("high", view.maximum)):
        bounds |= {} if bound is None else {name: f"{bound:.10g}"}
    if not bounds:
        return ""
    above = view.minimum is None and "low" in bounds
    if len(bounds) == 2:
        key = "above_up_to" if above else "range"
    else:
        key = "at_most" if "high" in bounds else "above" if above else "at_least"
    text = WORDS.text(key, **bounds)
    return WORDS.text("stepped", range=text, step=view.step) if view.step else text


def number_input(view: FieldView) -> widgets.FloatText:
    """The input for a number of this field, without its label, at zero or at the bound nearest to it.

    It has no bounds of its own: it would silently replace a number outside by the nearest one inside.
    """
    lowest = view.minimum if view.minimum is not None else view.above
    low = -math.inf if lowest is None else lowest
    high = math.inf if view.maximum is None else view.maximum
    if view.kind == "int":
        # a browser counts steps from 0: from a lower bound that is no multiple, arrows would miss every allowed number
        arrow: float = view.step if view.step and not int(low) % view.step else 1
    else:
        # an arrow key crosses a range as of a weight, 0 to 2, in 200 steps, and a wide one at a useful pace
        arrow = 0.01 if high - low <= 2 else 0.1
    return bare(widgets.FloatText, value=float(min(max(low, 0), high)), step=arrow)


class SizeControl(Control):
    """A resolution: automatic, by name, one of the usual sizes, or any other in a line that appears when chosen."""

    def __init__(self, view: FieldView, request_class: type[Request]) -> None:
        defaults = [profile.default_overrides(stage) for profile in PROFILES.values() for stage in STAGE_REQUESTS]
        of_profiles = [size for each in defaults if "x" in (size := each.get(view.name, ""))]
        multiple = PROFILES["full"].size_multiples.get(request_class.stage, SIZE_MULTIPLE)
        usual = ["{}x{}".format(*fit_into(width * height, (width, height), multiple)) for width, height in USUAL_SIZES]
        self._sizes = [*dict.fromkeys([*usual, *of_profiles])]
        self._own = bare(widgets.Text, layout={**WIDE, "display": "none"})
        box = bare(widgets.Dropdown, options=["auto", *NAMED_AREAS, *self._sizes, _OTHER])
        box.observe(self._show_own, "value")
        super().__init__(view, [box, self._own], box=box)
        self._own.observe(self._changed, "value")

    def _read(self) -> Any:
        return self._own.value if self._box.value == _OTHER else self._box.value

    def _write(self, value: Any) -> None:
        if value in ("auto", *NAMED_AREAS, *self._sizes):
            self._box.value = value
        else:
            self._box.value, self._own.value = _OTHER, str(value)

    def _show_own(self, change: Any) -> None:
        self._own.layout.display = None if change["new"] == _OTHER else "none"

    def _write_labels(self) -> None:
        super()._write_labels()
        self._own.description = WORDS.text("own", label=language.of(self.view.labels))
        named = [(WORDS.text("named", name=name), name) for name in NAMED_AREAS]
        sizes = [(size.replace("x", " × "), size) for size in self._sizes]
        automatic, other = (WORDS.text("auto"), "auto"), (WORDS.text("other"), _OTHER)
        set_options(self._box, [automatic, *named, *sizes, other])
