"""A resolution: automatic, by its name, one of the usual sizes, or one's own.

What every control has: a label, help and an error under it, and a value in the request's own terms.

Whole and broken numbers within their bounds, with an automatic state where the field may be left open.

Text, longer text, a tick, and a choice of a few.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from html import escape
from typing import Any, ClassVar, TypeVar

import ipywidgets as widgets
from ipywidgets.widgets.widget_description import DescriptionStyle
from ipywidgets.widgets.widget_string import HTMLStyle, TextStyle

from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import STAGE_REQUESTS, FieldView, Request
from wanavatar_lab.requests.sizes import NAMED_AREAS
from wanavatar_lab.ui.language import language, read_words

LABEL_WIDTH = {"description_width": "initial"}
WIDE = {"width": "auto"}
ROW = {"flex_flow": "row wrap"}
AS_WIDE_AS_ITS_WORDS = {"width": "auto", "align_self": "flex-start"}
BESIDE_LABELS = "0px"  # from the left, in line with the inputs
ERROR_COLOUR = "var(--wl-bad, #b3261e)"

_Box = TypeVar("_Box", bound=widgets.Box)

# the hints of fields that take a row of the form for themselves
WIDE_HINTS = frozenset({"textarea", "loras", "picture", "audio", "video", "weights"})


@cache
def shared(kind: type[Any], **traits: Any) -> Any:
    """A layout or a style that many widgets have and none changes.

    Every one is a message to the page, which is there the sooner the fewer there are.
    """
    return kind(**traits)


def bare_html(*style_classes: str) -> widgets.HTML:
    """A text that is not hidden or styled by itself."""
    return widgets.HTML(layout=shared(widgets.Layout), style=shared(HTMLStyle), _dom_classes=style_classes)


def bare_box(kind: type[_Box], children: Sequence[widgets.Widget] = (), *style_classes: str) -> _Box:
    """A box that is not hidden or laid out by itself."""
    return kind(children, layout=shared(widgets.Layout), _dom_classes=style_classes)


def bare_button(*style_classes: str, **traits: Any) -> widgets.Button:
    """A button that is as wide as its words."""
    looks = {"layout": shared(widgets.Layout, **AS_WIDE_AS_ITS_WORDS), "style": shared(widgets.ButtonStyle)}
    return widgets.Button(_dom_classes=style_classes, **looks, **traits)


class Control(widgets.VBox):
    """One field of a request.

    A subclass is made of the field and of the request's class. It makes its inputs, reads their value in `_read`, puts
    one there in `_write`, says its words in `_say`, and calls `_changed` when a person has changed something.
    """

    STYLE_CLASSES: ClassVar[tuple[str, ...]] = ("wl-field",)

    def __init__(self, view: FieldView, inputs: Sequence[widgets.Widget]) -> None:
        self.view = view
        self._note = bare_html()
        self._problem = ""
        self._listeners: list[Callable[[], None]] = []
        self._written = False  # while a program writes, which is no change by a person
        wide = view.widget in WIDE_HINTS or view.name == "profile"
        classes = [*self.STYLE_CLASSES, f"wl-of-{view.name}", *(["wl-wide"] if wide else [])]
        super().__init__([*inputs, self._note], layout=shared(widgets.Layout), _dom_classes=classes)
        self._unfollow = language.follow(self._say_quietly)

    @property
    def value(self) -> Any:
        """What stands there, in the request's own terms: None is automatic or empty."""
        return self._read()

    @value.setter
    def value(self, value: Any) -> None:
        with self._writing():
            self._write(value)

    @property
    def error(self) -> str:
        """What is wrong with the value, as it stands under the control; empty where nothing is."""
        return self._problem

    @error.setter
    def error(self, text: str) -> None:
        self._problem = text
        self._annotate()

    @property
    def label(self) -> str:
        """The field's label with its unit where it does not name that itself, in the language that is shown."""
        label, unit = language.of(self.view.labels), language.of(self.view.unit_labels)
        return f"{label} ({unit})" if unit and unit.casefold() not in label.casefold() else label

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` when a person has changed the value, not when a program has."""
        self._listeners.append(listener)

    def change(self, value: Any) -> None:
        """Put a value there on behalf of a person, who did something elsewhere in the form."""
        self.value = value
        self._changed()

    def meet(self, controls: Mapping[str, "Control"]) -> None:
        """Learn of all controls of the form, this one among them; most have no use for the others."""

    def look_around(self) -> None:
        """Some value in the form is another now; most controls do not care."""

    def follow_profile(self, profile: str) -> None:
        """Learn that the form is now about other models; most controls do not care."""

    def close(self) -> None:
        """Take it away, with everything in it."""
        # __del__ calls this too: again, or for a control whose __init__ raised
        self.__dict__.pop("_unfollow", lambda: None)()
        for child in self.children:
            child.close()
        super().close()

    def _read(self) -> Any:
        raise NotImplementedError(type(self))

    def _write(self, value: Any) -> None:
        raise NotImplementedError(type(self))

    def _say_quietly(self) -> None:
        with self._writing():
            self._say()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Whatever changes in here was changed by a program."""
        before, self._written = self._written, True
        try:
            yield
        finally:
            self._written = before

    def _say(self) -> None:
        self._annotate()

    def _annotate(self) -> None:
        help_text = language.of(self.view.help)
        notes = [small(help_text) if help_text else "", alert(self._problem) if self._problem else ""]
        self._note.value = "\n".join(filter(None, notes))

    def _changed(self, _: object = None) -> None:
        if self._written:
            return
        for listener in self._listeners:
            listener()


def small(text: str) -> str:
    """Text for people under a control, as HTML."""
    return f'<div class="wl-help" lang="{language.code}"><small>{escape(text)}</small></div>'


def alert(text: str) -> str:
    """An error as HTML that a screen reader says as soon as it stands there."""
    return f'<div class="wl-alert" role="alert" style="color:{ERROR_COLOUR}">{escape(text)}</div>'


NUMBER_WORDS = read_words(__file__, "number_field")

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
            self._automatic.description = language.of(NUMBER_WORDS["automatic"]).format(
                label=language.of(self.view.labels)
            )


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
        self._dice.description = language.of(NUMBER_WORDS["dice"])


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


SIZE_WORDS = read_words(__file__, "size_field")

USUAL = ("480x832", "832x480", "720x1280", "1280x720")  # what Wan2.2 was trained for
_OTHER = "other"


class SizeControl(Control):
    """A choice of sizes, and a line for any other, which is there only when it is wanted."""

    def __init__(self, view: FieldView, request_class: type[Request]) -> None:
        self._sizes = [*dict.fromkeys([*USUAL, *_of_profiles(view.name)])]
        self._box = dropdown(["auto", *NAMED_AREAS, *self._sizes, _OTHER])
        self._own = widgets.Text(style=shared(TextStyle), layout={**WIDE, "display": "none"})
        super().__init__(view, [self._box, self._own])
        self._box.observe(self._chosen, "value")
        self._own.observe(self._changed, "value")

    def _read(self) -> str:
        chosen: str = self._box.value
        return self._own.value if chosen == _OTHER else chosen

    def _write(self, value: Any) -> None:
        if value in ("auto", *NAMED_AREAS, *self._sizes):
            self._box.value = value
        else:
            self._box.value, self._own.value = _OTHER, str(value)

    def _chosen(self, _: object) -> None:
        self._own.layout.display = None if self._box.value == _OTHER else "none"
        self._changed()

    def _say(self) -> None:
        super()._say()
        self._box.description = self.label
        self._own.description = language.of(SIZE_WORDS["own"]).format(label=language.of(self.view.labels))
        named = [(language.of(SIZE_WORDS["named"]).format(name=name), name) for name in NAMED_AREAS]
        sizes = [(size.replace("x", " × "), size) for size in self._sizes]
        options = [
            (language.of(SIZE_WORDS["auto"]), "auto"),
            *named,
            *sizes,
            (language.of(SIZE_WORDS["other"]), _OTHER),
        ]
        choose_among(self._box, options)


def _of_profiles(field: str) -> list[str]:
    """The sizes that some profile has as its default."""
    defaults = [profile.default_overrides(stage) for profile in PROFILES.values() for stage in STAGE_REQUESTS]
    return [size for each in defaults if "x" in (size := each.get(field, ""))]
