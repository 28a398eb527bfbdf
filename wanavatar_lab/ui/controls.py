"""What stands for the fields of a request in a form: a control each, those that one sets seldom only when wanted."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import ipywidgets as widgets

from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import FieldView, Request, fields_of
from wanavatar_lab.ui.fields import (
    CheckboxControl,
    Control,
    NumberControl,
    SeedControl,
    SelectControl,
    SizeControl,
    TextControl,
)
from wanavatar_lab.ui.fields.control import bare_box
from wanavatar_lab.ui.lora_cards import LoraCards
from wanavatar_lab.ui.sources import FileControl

# a field's hint → what stands for it; a hint that is not here is a mistake in the request
CONTROLS: dict[str, Callable[[FieldView, type[Request]], Control]] = {
    "text": TextControl,
    "textarea": TextControl,
    "int": NumberControl,
    "float": NumberControl,
    "checkbox": CheckboxControl,
    "select": SelectControl,
    "seed": SeedControl,
    "size": SizeControl,
    "loras": LoraCards,
    "picture": FileControl,
    "audio": FileControl,
    "video": FileControl,
    "weights": FileControl,
}


class Controls(Mapping[str, Control]):
    """The controls of a request by the names of their fields.

    Those of the group `advanced` are made when someone looks for one of them, or at the call of `make_all`.

    Args:
        request_class: whose fields.
        changed: told the name of a field that a person has changed.
        settle: told the names of fields whose controls were made late, to give them their values.

    Attributes:
        views: what the request says of each field.
        made: those that there are.
        basic, advanced: the boxes in which they are; the latter is hidden.

    Raises:
        LabError: a field asks for a control that there is none for.
    """

    def __init__(
        self,
        request_class: type[Request],
        changed: Callable[[str], None],
        settle: Callable[[Sequence[str]], None],
    ) -> None:
        self.views = fields_of(request_class)
        self.made: dict[str, Control] = {}
        self.basic = bare_box(widgets.VBox, (), "wl-fields")
        self.advanced = widgets.VBox(layout={"display": "none"}, _dom_classes=["wl-fields"])
        self._request_class, self._changed, self._settle = request_class, changed, settle
        self._make(self._group(advanced=False))

    def __getitem__(self, name: str) -> Control:
        if name in self.views and name not in self.made:
            self.make_all()
        return self.made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.views)

    def __len__(self) -> int:
        return len(self.views)

    def __contains__(self, name: object) -> bool:
        return name in self.views

    def is_advanced(self, name: str) -> bool:
        """Whether a field is one of those that one sets seldom."""
        return self.views[name].group == "advanced"

    def make_all(self) -> None:
        """Make those that there are not yet."""
        names = [name for name in self.views if name not in self.made]
        if names:
            self._make(names)
            self._settle(names)

    def close(self) -> None:
        """Take all away."""
        for control in self.made.values():
            control.close()

    def _group(self, *, advanced: bool) -> list[str]:
        return [name for name in self.views if self.is_advanced(name) is advanced]

    def _make(self, names: Sequence[str]) -> None:
        for name in names:
            self.made[name] = _control(self.views[name], self._request_class)
            self.made[name].on_change(partial(self._changed, name))
        for control in self.made.values():  # the older ones learn of the new ones, too
            control.meet(self.made)
        for box, group in ((self.basic, self._group(advanced=False)), (self.advanced, self._group(advanced=True))):
            if set(names) & set(group):
                box.children = [self.made[name] for name in group]


def _control(view: FieldView, request_class: type[Request]) -> Control:
    if view.widget not in CONTROLS:
        raise LabError(
            f"{request_class.__name__}.{view.name} asks for the control {view.widget!r}; "
            f"there are {', '.join(CONTROLS)}."
        )
    return CONTROLS[view.widget](view, request_class)
