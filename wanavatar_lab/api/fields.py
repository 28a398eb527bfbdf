"""How an endpoint names the fields of a request. The request says the rest: defaults, what is allowed, help, errors.

The predecessor's endpoints call some fields otherwise than their requests. Every other field of the request is taken
under its own name, but not the profile, which the service chooses, nor files of weights, which may hold pickles.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wanavatar_lab.api.places import file_of
from wanavatar_lab.errors import RequestError
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import ImageToVideo, Request, SpeechToVideo, TextToImage, fields_of, parse
from wanavatar_lab.requests.display import defaults_of
from wanavatar_lab.requests.request import must_be, suggestion
from wanavatar_lab.requests.sizes import LARGEST_SIDE, SMALLEST_SIDE

_AREA = re.compile(r"([0-9]{2,4})[*xX×]([0-9]{2,4})")
_AREA_ALLOWED = "two sides in pixels, such as '720*1280'"
_JSON_TYPES: dict[str, tuple[type, ...]] = {"int": (int, float), "float": (int, float), "str": (str,), "list": (list,)}
# of a request's JSON schema, those that forms need
_FOR_FORMS = ("labels", "help", "widget", "unit", "unit_labels", "group", "options", "ui_range", "step", "title")


@dataclass(frozen=True)
class Fields:
    """The fields of an endpoint.

    Attributes:
        request: what is made of them.
        names: of fields that the endpoint calls otherwise, by that name.
        special: schemas of fields that no field of the request is the same as; `_special` reads them.
    """

    request: type[Request]
    names: Mapping[str, str]
    special: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    def read(self, body: Mapping[str, Any], profile: str) -> tuple[Request, int | None]:
        """The request, and for a clip the largest number of its pixels, if the endpoint takes a resolution as that.

        Raises:
            RequestError: a value is not allowed; it names fields as the endpoint does.
            HTTPException: 404, a path is of no file that may be used.
        """
        known, views = self.known(), fields_of(self.request)
        values: dict[str, Any] = {"profile": profile} if "profile" in views else {}  # a tool has none
        area, problems = None, []
        for name, value in body.items():
            if value is None:  # as if it were left out
                continue
            if name in self.special:
                try:
                    area = self._special(name, value, values) or area
                except ValueError as error:
                    problems.append((name, str(error)))
            elif name not in known:
                problems.append((name[:80], f"there is no such field; {suggestion(name, [*known, *self.special])}"))
            elif fault := _wrong_type(views[known[name]], value):
                problems.append((name, fault))
            else:
                values[known[name]] = value
        if problems:
            raise RequestError(problems)
        try:
            request = parse(self.request.stage, values)
        except RequestError as error:
            raise self.renamed(error) from None
        files = {name: str(file_of(str(path))) for name, path in request.input_files().items()}
        return request.changed(**files), area

    def known(self) -> dict[str, str]:
        """The request's field for each name that the endpoint takes."""
        renamed, views = {theirs: ours for ours, theirs in self.names.items()}, fields_of(self.request)
        hidden = {"profile", *({"resolution", "offload"} if self.special else set())}
        return {
            renamed.get(name, name): name
            for name, view in views.items()
            if name not in hidden and view.widget != "weights"
        }

    def renamed(self, error: RequestError) -> RequestError:
        """The error with the endpoint's names of fields."""
        theirs = {ours: name for name, ours in self.names.items()}
        return RequestError(
            [
                (re.sub(r"^\w+", lambda found: theirs.get(found[0], found[0]), name), message)
                for name, message in error.problems
            ]
        )

    def schema(self, profile: str) -> dict[str, Any]:
        """The JSON schema of a body, with the defaults of a profile."""
        schema = self.request.model_json_schema()
        defaults, views = defaults_of(self.request, profile), fields_of(self.request)
        properties: dict[str, Any] = {}
        for theirs, ours in self.known().items():
            shown = _plain(schema["properties"][ours], schema.get("$defs", {}))
            if (step := views[ours].step) and (least := views[ours].minimum) is not None:
                # multiples from a lower bound that is none itself cannot be said otherwise
                steps = range(int(least), int(views[ours].maximum or least) + 1, step)
                shown = _with_each(shown, {"multipleOf": step} if least % step == 0 else {"enum": list(steps)})
            if views[ours].required:
                shown.pop("default", None)
            else:
                shown = {**_or_null(shown), "default": _json_default(defaults[ours])}
            if views[ours].is_file:
                shown = _with_each(shown, {"minLength": 1, "maxLength": 1024})
            properties[theirs] = shown
        properties |= {name: _or_null(shown) for name, shown in self.special.items()}
        required = [theirs for theirs, ours in self.known().items() if views[ours].required]
        return {
            "type": "object",
            "title": self.request.__name__,
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }

    def _special(self, name: str, value: Any, values: dict[str, Any]) -> int | None:
        """Read a field of the predecessor's that no field is the same as.

        There a resolution is the number of a clip's pixels, in whatever order its sides are written: the clip has the
        shape of the picture. And `offload_model` moves models to main memory while they are not needed.
        """
        if name == "offload_model":
            if not isinstance(value, bool):
                raise ValueError(must_be("true or false", value))
            values |= {"offload": "model"} if value else {}
            return None
        sides = _AREA.fullmatch(value) if isinstance(value, str) else None
        if sides is None or not all(SMALLEST_SIDE <= int(side) <= 2 * LARGEST_SIDE for side in sides.groups()):
            raise ValueError(must_be(_AREA_ALLOWED, value))
        area = int(sides[1]) * int(sides[2])
        return area if area < PROFILES[values["profile"]].auto_area else None


_OF_VIDEO: dict[str, dict[str, Any]] = {
    "resolution": {
        "type": "string",
        "pattern": r"^([1-9][0-9]{2}|[1-3][0-9]{3})\*([1-9][0-9]{2}|[1-3][0-9]{3})$",
        "default": "720*1280",
        "description": "Pixels of a frame at most, in the shape of the picture; no more than is usual for the models.",
    },
    "offload_model": {
        "type": "boolean",
        "default": False,
        "description": "Models wait in main memory until they are needed. Otherwise that goes by free memory.",
    },
}

GENERATE = Fields(
    SpeechToVideo,
    {
        "image_path": "image",
        "audio_path": "audio",
        "num_clips": "num_segments",
        "inference_steps": "num_inference_steps",
        "infer_frames": "frames_per_segment",
        "lora_weights": "loras",
    },
    _OF_VIDEO,
)
GENERATE_I2V = Fields(
    ImageToVideo,
    {"image_path": "image", "inference_steps": "num_inference_steps", "shift": "flow_shift", "lora_weights": "loras"},
    _OF_VIDEO,
)
GENERATE_FLUX = Fields(TextToImage, {"aspect_ratio": "aspect", "lora_weights": "loras"})


def _wrong_type(view: Any, value: Any) -> str:
    """What is wrong where a JSON value is of another type than the field; a number as text would be read otherwise."""
    if view.optional and value == "auto":  # a number's errors say that it may be this
        right = True
    elif view.kind == "bool":
        right = isinstance(value, bool)
    else:
        right = isinstance(value, _JSON_TYPES.get(view.kind, (object,))) and not isinstance(value, bool)
    if right and view.kind == "list":
        weights = (weight for one in value if isinstance(one, dict) for key, weight in one.items() if key != "name")
        right = all(isinstance(one, dict) for one in value) and not any(isinstance(one, str | bool) for one in weights)
    return "" if right else must_be(view.allowed, value)


def _plain(shown: Any, definitions: Mapping[str, Any]) -> Any:
    """A schema without references and without what only forms need."""
    if isinstance(shown, list):
        return [_plain(one, definitions) for one in shown]
    if not isinstance(shown, dict):
        return shown
    if "$ref" in shown:
        return _plain(definitions[shown["$ref"].rpartition("/")[2]], definitions)
    properties = {name: _plain(one, definitions) for name, one in shown.get("properties", {}).items()}
    kept = {
        key: _plain(value, definitions)
        for key, value in shown.items()
        if key not in (*_FOR_FORMS, "allowed", "properties")
    }
    return {**kept, **({"properties": properties} if properties else {})}


def _or_null(shown: dict[str, Any]) -> dict[str, Any]:
    if "anyOf" in shown or "type" not in shown:
        return shown
    if "enum" in shown:
        shown = {**shown, "enum": [*shown["enum"], None]}
    return {**shown, "type": [shown["type"], "null"]}


def _with_each(shown: dict[str, Any], added: dict[str, Any]) -> dict[str, Any]:
    """A schema with more said of its value, which may also be null."""
    if "anyOf" not in shown:
        return {**shown, **added}
    return {**shown, "anyOf": [one if one.get("type") == "null" else {**one, **added} for one in shown["anyOf"]]}


def _json_default(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
