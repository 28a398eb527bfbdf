"""Presets: named values of a stage's fields, some of which ship, and a person's own.

    ~/.config/wanavatar-lab/presets/text_to_image.json      name → values of fields, in the order they were saved

The form's menu has them (`ui/presets.py`), and each stage's command as `--preset`.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wanavatar_lab import files, locks
from wanavatar_lab.errors import LabError, RequestError
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests.field_spec import Words, translated
from wanavatar_lab.requests.request import shown
from wanavatar_lab.settings import config_folder

LONGEST_NAME = 60  # characters
Values = dict[str, Any]


def _four_steps(lora: str) -> tuple[Values, None]:
    """What a distilled LoRA was trained for, whose publisher's own configurations have the same numbers.

    Args:
        lora: its name, which the table of weights has too.
    """
    weights = {"name": lora, "high_weight": 1.0, "low_weight": 1.0}
    return {
        "num_inference_steps": 4,
        "guidance_scale": 1.0,
        "sample_solver": "euler",
        "flow_shift": 5.0,
        "loras": [weights],
    }, None


# stage → key of the name in ui/words/presets.json → values with each profile, in the order of `PROFILES`; None where
# there is no such preset
SHIPPED: dict[str, dict[str, tuple[Values, Values | None]]] = {
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
        "four_steps": _four_steps("wan2.2_i2v_A14b_lora_rank64_lightx2v_4step_1022"),
        "twice_as_long": ({"frame_num": 161}, {"frame_num": 97}),
    },
    "text_to_speech": {
        "slow": ({"speaking_rate": 0.8, "manner": "calm, articulate"}, {"speaking_rate": 0.8}),
        "lively": ({"speaking_rate": 1.1, "manner": "cheerful, lively"}, {"speaking_rate": 1.15}),
    },
    "speech_to_video": {
        "draft": (
            {"resolution": "480p", "num_inference_steps": 15, "speed": "balanced", "num_segments": 1},
            {"num_inference_steps": 4, "num_segments": 1},
        ),
        # none is published for this network; that for text to video is made for its blocks, and for all of the noise
        "four_steps": _four_steps("wan2.1_t2v_14b_lora_rank64_lightx2v_4step"),
        "from_picture": ({"start_from_image": True},) * 2,
    },
}

# what a preset is for, where its name does not say it
PURPOSES: dict[str, Words] = {
    "four_steps": translated(
        "Many times faster, in a single pass per step. For trying out pictures and prompts: motion, expressions and "
        "detail are weaker than with all steps."
    )
}


def shipped_presets(stage: str, profile: str) -> dict[str, Values]:
    """The presets of a stage that ship, by key, for a profile."""
    at = list(PROFILES).index(profile)
    shipped = SHIPPED.get(stage, {})
    return {key: values for key, each in shipped.items() if (values := each[at]) is not None}


def preset_values(stage: str, name: str, profile: str) -> Values:
    """The values of a person's own preset of this name, or of one that ships.

    Raises:
        RequestError: there is none; the text names those that there are.
        LabError: the file of a person's own cannot be read.
    """
    known = shipped_presets(stage, profile) | own_presets(stage)
    key = name if name in known else name.replace("-", "_")
    if key not in known:
        of_stage = f"{stage.replace('_', ' ')} with profile {profile}"
        raise RequestError([("preset", f"{of_stage} has {', '.join(known) or 'none'} (got {shown(name)})")])
    return dict(known[key])


def shipped_values(stage: str, key: str, profile: str) -> Values:
    """The values of a preset that ships.

    Raises:
        LabError: there is none, or none with this profile.
    """
    return dict(_found(shipped_presets(stage, profile), key))


def own_values(stage: str, name: str) -> Values:
    """The values of a person's own preset.

    Raises:
        LabError: there is none, or the file cannot be read.
    """
    return _found(own_presets(stage), name)


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
