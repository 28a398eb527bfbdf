"""What every control has: a label, help and an error under it, and a value in the request's own terms."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from html import escape
from typing import Any, ClassVar, TypeVar

import ipywidgets as widgets
from ipywidgets.widgets.widget_string import HTMLStyle

from wanavatar_lab.requests import FieldView
from wanavatar_lab.ui.language import language

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
