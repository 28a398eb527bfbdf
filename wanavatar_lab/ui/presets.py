"""Presets of a form: named values, some of which ship for each stage, and a person's own.

    ~/.config/wanavatar-lab/presets/text_to_image.json      name → values of fields, in the order they were saved

A preset is about settings: what a form takes in (files, their parts, prompts) stays as it is where the preset has none,
and every other field that it does not name follows the profile.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import traitlets

from wanavatar_lab import files, locks
from wanavatar_lab.errors import LabError
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import FieldView
from wanavatar_lab.settings import config_folder
from wanavatar_lab.ui.form import Form
from wanavatar_lab.ui.form_memory import plain
from wanavatar_lab.ui.language import read_words
from wanavatar_lab.ui.messages import in_language
from wanavatar_lab.ui.widget import LabWidget, script, styles

LONGEST_NAME = 60  # characters
Values = dict[str, Any]

# stage → key of the name in words/presets.json → values with each profile, in the order of `PROFILES`
SHIPPED: dict[str, dict[str, tuple[Values, Values]]] = {
    "text_to_image": {
        # the model was distilled for 4 steps; 2 show the composition
        "draft": ({"aspect": "square", "num_inference_steps": 2, "upscale": False},) * 2,
        "square": ({"aspect": "square"},) * 2,
        "wide": ({"aspect": "landscape"},) * 2,
    },
    "upscale": {"less_memory": ({"tile": 256}, {"tile": 64})},
    "image_to_video": {
        "draft": (
            {"resolution": "480p", "num_inference_steps": 20, "frame_num": 49},
            {"num_inference_steps": 4, "frame_num": 25},
        ),
        "twice_as_long": ({"frame_num": 161}, {"frame_num": 97}),
    },
    "text_to_speech": {
        "slow": ({"speaking_rate": 0.8, "manner": "calm, articulate"}, {"speaking_rate": 0.8}),
        "lively": ({"speaking_rate": 1.1, "manner": "cheerful, lively"}, {"speaking_rate": 1.15}),
    },
    "speech_to_video": {
        "draft": (
            {"resolution": "480p", "num_inference_steps": 15, "step_cache": "first_block", "num_segments": 1},
            {"num_inference_steps": 4, "num_segments": 1},
        ),
        "from_picture": ({"start_from_image": True},) * 2,
    },
}
WORDS = read_words(__file__, "presets")


class Presets(LabWidget):
    """A menu of presets, in which a person's own are saved, renamed and deleted.

    Args:
        form: whose values are saved, and into which they are put.

    Attributes:
        shipped: keys of those that ship.
        own: names of a person's own.
        gone: the one that was deleted last, while it can be restored.
        notice: the last error.
    """

    _esm = script("menu", "presets")
    _css = styles("menu", "presets")
    WORDS = WORDS

    shipped = traitlets.List(traitlets.Unicode()).tag(sync=True)
    own = traitlets.List(traitlets.Unicode()).tag(sync=True)
    gone = traitlets.Unicode("").tag(sync=True)
    notice = traitlets.Unicode("").tag(sync=True)

    def __init__(self, form: Form) -> None:
        self._form, self._stage = form, form.request_class.stage
        self._deleted: Values = {}
        super().__init__(shipped=[*SHIPPED.get(self._stage, {})])

    def receive(self, content: Mapping[str, Any], buffers: Sequence[memoryview] = ()) -> None:
        """Do what the menu asks for; an error becomes the notice."""
        name = str(content.get("name", ""))
        self.notice = ""
        try:
            match content.get("kind"):
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
        except (LabError, OSError) as error:
            self.notice = in_language(str(error))

    def apply(self, name: str, *, own: bool = False) -> None:
        """Put a preset into the form.

        Args:
            name: of one's own, or the key of one that ships.

        Raises:
            LabError: there is none of that name.
        """
        values = (
            _found(own_presets(self._stage), name) if own else shipped_values(self._stage, name, self._form.profile)
        )
        views = self._form.views
        kept = {
            each: value for each, value in self._form.chosen().items() if each == "profile" or _taken_in(each, views)
        }
        self._form.restore(kept | values)

    def save(self, name: str) -> None:
        """Save the form's values under a name, in place of those of that name.

        Raises:
            LabError: the name is not allowed, or the file cannot be written.
        """
        save_preset(self._stage, name, plain(self._form.chosen()))


def shipped_values(stage: str, key: str, profile: str) -> Values:
    """The values of a preset that ships.

    Raises:
        LabError: there is none.
    """
    return dict(zip(PROFILES, _found(SHIPPED.get(stage, {}), key), strict=True))[profile]


def own_presets(stage: str) -> dict[str, Values]:
    """A person's own presets by name.

    Raises:
        LabError: the file is damaged, or may not be read.
    """
    path = _file(stage)
    try:
        found = json.loads(files.read_file(path))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise LabError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(values, dict) for values in found.values()):
        raise LabError(f"{path} does not hold presets. Correct it, or move it away.")
    return found


def save_preset(stage: str, name: str, values: Values) -> None:
    """Save values under a name, in place of those of that name.

    Raises:
        LabError: the name is empty or long, or the file is damaged or cannot be written.
    """
    name = _named(name)
    _change(stage, lambda presets: presets.update({name: values}))


def rename_preset(stage: str, name: str, to: str) -> None:
    """Give a preset another name; it keeps its place.

    Raises:
        LabError: there is no such preset, the name is empty or long, or another one has it.
    """
    to = _named(to)

    def rename(presets: dict[str, Values]) -> None:
        _found(presets, name)
        if to != name and to in presets:
            raise LabError(f"There is a preset {to!r} already; choose another name.")
        renamed = {to if each == name else each: values for each, values in presets.items()}
        presets.clear()
        presets.update(renamed)

    _change(stage, rename)


def delete_preset(stage: str, name: str) -> Values:
    """Delete a preset; returns its values, so that it can be saved again.

    Raises:
        LabError: there is no such preset, or the file cannot be written.
    """
    values = _found(own_presets(stage), name)
    _change(stage, lambda presets: presets.pop(name, None))
    return values


def _file(stage: str) -> Path:
    return config_folder() / "presets" / f"{stage}.json"


def _change(stage: str, change: Callable[[dict[str, Values]], object]) -> None:
    """Change the file as it is now, whole or not at all."""
    path = _file(stage)
    try:
        os.makedirs(path.parent, exist_ok=True)
        with locks.locked(path.with_suffix(".lock")):
            presets = own_presets(stage)
            change(presets)
            files.write_json(path, presets)
    except PermissionError as error:
        raise LabError(f"{path.parent} is not writable ({error.strerror}). Change its permissions.") from error


def _named(name: str) -> str:
    name = " ".join(files.printable(name).split())
    if not 1 <= len(name) <= LONGEST_NAME:
        raise LabError(f"The name of a preset has 1 to {LONGEST_NAME} characters (got {len(name)}).")
    return name


def _found(presets: Mapping[str, Any], name: str) -> Any:
    if name not in presets:
        raise LabError(f"There is no preset {name!r} any more.")
    return presets[name]


def _taken_in(name: str, views: Mapping[str, FieldView]) -> bool:
    """Whether a field is about what a form takes in: a file, a part of one, or a prompt."""
    owners = [each for each, view in views.items() if view.is_file and (name == each or name.startswith(f"{each}_"))]
    return bool(owners) or views[name].widget == "textarea"
