"""What was typed into a form survives a reload of the page and a restart of the kernel: the browser remembers it.

Each stage, with the values that its notebook or page begins with, has a memory of its own in each browser: a form that
begins with other values, as after a change of a notebook's parameters, is not overridden by what was typed before.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import traitlets

from wanavatar_lab.ui.form import Form
from wanavatar_lab.ui.language import read_words
from wanavatar_lab.ui.widget import LabWidget, script, styles


class FormMemory(LabWidget):
    """A button that takes back what was changed in a form, hidden while nothing was; the first page of the kernel puts
    what its browser remembers into the form.

    Args:
        form: as it begins.

    Attributes:
        key: under which the browser remembers.
        values: of the fields that do not follow the profile, as JSON types.
        changed: whether they differ from those that the form began with.
        settled: whether the form has what is remembered, or is used already and keeps what it has.
    """

    _esm = script("form_memory")
    _css = styles()
    WORDS = read_words(__file__, "form_memory")

    key = traitlets.Unicode("").tag(sync=True)
    values = traitlets.Dict().tag(sync=True)
    changed = traitlets.Bool(False).tag(sync=True)
    settled = traitlets.Bool(False).tag(sync=True)

    def __init__(self, form: Form) -> None:
        self._form, self._begun = form, plain(form.chosen())
        text = json.dumps(self._begun, sort_keys=True)
        key = f"form.{form.request_class.stage}.{hashlib.sha256(text.encode()).hexdigest()[:12]}"
        super().__init__(key=key, values=self._begun)
        form.on_change(self._follow)

    def receive(self, content: Mapping[str, Any], buffers: Sequence[memoryview] = ()) -> None:
        """Put what the browser remembers into the form, or let the form begin again."""
        if content.get("kind") == "remembered" and not self.settled:
            self.settled = True
            values = content.get("values")
            if isinstance(values, Mapping) and not self.changed:
                self._form.set_allowed({name: value for name, value in values.items() if name in self._form.views})
        elif content.get("kind") == "reset":
            self._form.reset(**self._begun)

    def _follow(self) -> None:
        values = plain(self._form.chosen())
        with self.hold_sync():
            self.values, self.changed = values, values != self._begun


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of fields as JSON types."""
    found: dict[str, Any] = json.loads(json.dumps(values, default=_dumped))
    return found


def _dumped(value: Any) -> Any:
    return value.model_dump(mode="json") if hasattr(value, "model_dump") else str(value)
