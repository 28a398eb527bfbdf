"""The menu of a form's presets: those that ship, and a person's own, which are saved, renamed and deleted there.

A preset is about settings: what a form takes in (files, their parts, prompts) stays as it is where the preset has none,
and every other field that it does not name follows the profile.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import traitlets

from wanavatar_lab.errors import RequestError
from wanavatar_lab.lora.resolve import resolve
from wanavatar_lab.requests import FieldView
from wanavatar_lab.requests.presets import (
    PURPOSES,
    Values,
    delete_preset,
    own_presets,
    own_values,
    rename_preset,
    save_preset,
    shipped_presets,
    shipped_values,
)
from wanavatar_lab.settings import read_settings
from wanavatar_lab.ui.form import Form
from wanavatar_lab.ui.form_memory import plain
from wanavatar_lab.ui.language import read_words
from wanavatar_lab.ui.messages import in_language, noticed
from wanavatar_lab.ui.widget import LabWidget, script, styles


class Presets(LabWidget):
    """A menu of presets, in which a person's own are saved, renamed and deleted.

    Args:
        form: whose values are saved, and into which they are put.

    Attributes:
        shipped: keys of those that ship, for the form's profile.
        own: names of a person's own.
        gone: the one that was deleted last, while it can be restored.
        notice: the last error, or which LoRAs of the form are not there.
    """

    _esm = script("menu", "presets")
    _css = styles("menu", "presets")
    WORDS = read_words(__file__, "presets") | {f"{key}_for": purpose for key, purpose in PURPOSES.items()}

    shipped = traitlets.List(traitlets.Unicode()).tag(sync=True)
    own = traitlets.List(traitlets.Unicode()).tag(sync=True)
    gone = traitlets.Unicode("").tag(sync=True)
    notice = traitlets.Unicode("").tag(sync=True)

    def __init__(self, form: Form) -> None:
        self._form, self._stage = form, form.request_class.stage
        self._deleted: Values = {}
        super().__init__(shipped=[*shipped_presets(self._stage, form.profile)])

    def receive(self, content: Mapping[str, Any], buffers: Sequence[memoryview] = ()) -> None:
        """Do what the menu asks for; an error becomes the notice."""
        name = str(content.get("name", ""))
        self.shipped = [*shipped_presets(self._stage, self._form.profile)]
        with noticed(self):
            match content.get("kind"):
                case "look":  # as the menu asks when it opens, which it does to show a notice
                    self.notice = self._lacking()
                case "apply":
                    self.apply(name, own=bool(content.get("own")))
                case "save":
                    self.save(name)
                case "rename":
                    rename_preset(self._stage, name, str(content.get("to", "")))
                case "delete":
                    self._deleted = delete_preset(self._stage, name)
                    self.gone = name
                case "undo" if self.gone:
                    save_preset(self._stage, self.gone, self._deleted)
                    self.gone = ""
            self.own = [*own_presets(self._stage)]  # another page may have changed them

    def apply(self, name: str, *, own: bool = False) -> None:
        """Put a preset into the form; a LoRA of it that is not there becomes the notice.

        Args:
            name: of one's own, or the key of one that ships.

        Raises:
            LabError: there is none of that name.
        """
        stage = self._stage
        values = own_values(stage, name) if own else shipped_values(stage, name, self._form.profile)
        views = self._form.views
        kept = {
            each: value for each, value in self._form.chosen().items() if each == "profile" or _taken_in(each, views)
        }
        self._form.restore(kept | values)
        self.notice = self._lacking()

    def save(self, name: str) -> None:
        """Save the form's values under a name, in place of those of that name.

        Raises:
            LabError: the name is not allowed, or the file cannot be written.
        """
        save_preset(self._stage, name, plain(self._form.chosen()))

    def _lacking(self) -> str:
        """Which LoRAs of the form are not there, and how they are got."""
        named = self._form.values().get("loras", ())
        try:
            resolve((lora["name"] for lora in named), self._stage, read_settings().weights_dir)
        except RequestError as error:
            return "; ".join(in_language(problem) for _, problem in error.problems)
        return ""


def _taken_in(name: str, views: Mapping[str, FieldView]) -> bool:
    """Whether a field is about what a form takes in: a file, a part of one, or a prompt."""
    owners = [each for each, view in views.items() if view.is_file and (name == each or name.startswith(f"{each}_"))]
    return bool(owners) or views[name].widget == "textarea"
