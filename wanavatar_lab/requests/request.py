"""What all requests share: how they are read, refused, written, and how a profile sets their defaults.

The words in which a request is refused: the field, the value, and what to give instead.
"""

import difflib
import numbers
import os
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from wanavatar_lab.errors import RequestError
from wanavatar_lab.profiles import PROFILES, Profile
from wanavatar_lab.requests.field_spec import FieldView, Words, describe_schema, fields_of, spec, translated

LONGEST_SHOWN = 80  # characters of a value or of a name that a message repeats

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = LONGEST_SHOWN
_short.maxlevel = 3


def refused(requirement: str) -> PydanticCustomError:
    """An error for a validator to raise; the message adds the value, as in "must be ... (got 5)".

    Args:
        requirement: what the value must be, beginning with the verb.
    """
    return PydanticCustomError("refused", "{requirement}", {"requirement": requirement})


def must_be(allowed: str, value: Any) -> str:
    """The message about a value that is not allowed: "must be an integer from 1 to 100 (got 'x')"."""
    return f"must be {allowed} (got {shown(value)})"


def shown(value: Any) -> str:
    """A value as a message repeats it: short, and always printable."""
    return _short.repr(value)


def suggestion(name: str, known: Iterable[str]) -> str:
    """What to say about a name that is not known: the nearest one, or all."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"


def explain(model: type[BaseModel], error: ValidationError) -> RequestError:
    """Turn pydantic's report on `model` into an error that names every problem once."""
    problems: dict[str, str] = {}
    for entry in error.errors(include_url=False):
        place, owner, name = _place(model, entry["loc"])
        problems.setdefault(place, _words(owner, name, entry))
    return RequestError(list(problems.items()))


def _place(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[str, type[BaseModel], str]:
    """The name of the place at fault (`loras[0].high_weight`), the model it belongs to, and its name there."""
    place, owner, name = "", model, ""
    for index, part in enumerate(loc):
        if isinstance(part, int):
            place += f"[{part}]"
            if index + 1 < len(loc):
                owner = _item_model(owner, name)
        else:
            trimmed = part if len(part) <= LONGEST_SHOWN else part[: LONGEST_SHOWN - 1] + "…"
            place += f".{trimmed}" if place else trimmed
            name = part
    return place, owner, name


def _item_model(model: type[BaseModel], name: str) -> type[BaseModel]:
    """The model of the items of the list field `name`."""
    item = model.model_fields[name].annotation.__args__[0]  # type: ignore[union-attr]
    return item if isinstance(item, type) and issubclass(item, BaseModel) else model


def _words(model: type[BaseModel], name: str, entry: Mapping[str, Any]) -> str:
    views = fields_of(model)
    if entry["type"] == "extra_forbidden":
        return f"there is no such field; {suggestion(name, views)}"
    if entry["type"] == "missing":
        return f"is required: {views[name].allowed}"
    if entry["type"] == "refused" or name not in views:
        return f"{entry['msg']} (got {shown(entry['input'])})"
    return must_be(views[name].allowed, entry["input"])


STAGE_REQUESTS: dict[str, "type[Request]"] = {}  # filled in the package's __init__

# what people write where they mean None: a form leaves the field empty, a command line and papermill say auto
NONE_WORDS = {"", "auto", "none", "null"}


class Described(BaseModel):
    """A frozen model whose fields have a `spec`, from which values are read and refused."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        json_schema_extra=describe_schema,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _read(cls, value: Any, info: ValidationInfo) -> Any:
        return _as_written(fields_of(cls)[str(info.field_name)], value)

    @field_validator("*", mode="after")
    @classmethod
    def _hold(cls, value: Any, info: ValidationInfo) -> Any:
        view = fields_of(cls)[str(info.field_name)]
        blank = view.required and isinstance(value, str) and not value.strip()
        unknown = view.options and value not in view.options
        between = view.step and value is not None and (value - int(view.minimum or 0)) % view.step
        if blank or unknown or between:
            raise refused(f"must be {view.allowed}")
        return value


class Request(Described):
    """A stage's parameters, checked. The fields of each stage are in its subclass.

    A field that is not named takes its default from the profile. Values may come as text, as command lines and
    papermill have them; the words of a refusal are the same wherever it happens.

    Raises:
        RequestError: for every field at fault, its name, the value, and what is allowed.
    """

    stage: ClassVar[str]
    labels: ClassVar[Words] = {}  # people's name of the stage, by language; without it the stage's own
    help: ClassVar[Words] = {}  # one sentence, by language; without it the class's docstring
    artifact: ClassVar[str] = ""  # the kind of the main artifact; empty where the first one is
    suffix: ClassVar[str] = ""  # how the main artifact's file ends; empty where it is not known before

    profile: Annotated[str, spec("Models", options={profile.name: profile.label for profile in PROFILES.values()})] = (
        "full"
    )
    """Full uses the published models; pocket uses small ones that run on any CPU."""

    def __init__(self, /, **values: Any) -> None:
        name = values.get("profile", "full")
        overrides = PROFILES[name].default_overrides(self.stage) if isinstance(name, str) and name in PROFILES else {}
        try:
            super().__init__(**{**overrides, **values})
        except ValidationError as error:
            raise explain(type(self), error) from None
        # what the profile filled in was not named by the user, and follows when the profile is changed
        self.model_fields_set.intersection_update(values)
        problems = self._conflicts()
        if problems:
            raise RequestError(problems)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        stage = getattr(cls, "stage", "")
        cls.labels = cls.labels or translated(stage.replace("_", " ").capitalize())
        cls.help = cls.help or translated((cls.__doc__ or "").strip().partition("\n")[0])

    @classmethod
    def build(cls, /, **values: Any) -> Self:
        """The request with these values; the same as calling the class."""
        return cls(**values)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The request that `to_json` wrote.

        Raises:
            RequestError: the stage is unknown or not this class's, or a value is not allowed.
        """
        if not isinstance(data, Mapping):
            raise RequestError([("", f"{shown(data)} is not a request; give field names with their values")])
        request = parse(data.get("stage"), {key: value for key, value in data.items() if key != "stage"})
        if not isinstance(request, cls):
            raise RequestError([("stage", must_be(repr(cls.stage), request.stage))])
        return request

    def to_json(self) -> dict[str, Any]:
        """The stage and every field as JSON has them."""
        return {"stage": self.stage, **self.model_dump(mode="json")}

    def named(self) -> dict[str, Any]:
        """The fields that were named when the request was made, as JSON has them; the others are defaults."""
        return self.model_dump(mode="json", include=self.model_fields_set)

    def changed(self, /, **values: Any) -> Self:
        """The same request with some fields changed, checked again; defaults follow a changed profile."""
        return type(self)(**{**self.named(), **values})

    def the_profile(self) -> Profile:
        """The entry of the table of profiles that this request names."""
        return PROFILES[self.profile]

    def input_files(self) -> dict[str, Path]:
        """The files that the run will read, by field."""
        values = {name: getattr(self, name) for name, view in fields_of(type(self)).items() if view.is_file}
        return {name: Path(value) for name, value in values.items() if value is not None}

    def check_inputs(self) -> None:
        """See that every input file is there and can be opened; what is in it is the stage's affair.

        Raises:
            RequestError: for every file that is missing, empty, a folder, or not readable.
        """
        views = fields_of(type(self))
        problems = [
            (name, f"{shown(str(path))} {fault}; give {views[name].allowed}")
            for name, path in self.input_files().items()
            if (fault := _fault(path))
        ]
        if problems:
            raise RequestError(problems)

    def with_absolute_paths(self) -> Self:
        """The same request with input files by absolute paths, so that another process finds them."""
        return self.changed(**{name: str(path.absolute()) for name, path in self.input_files().items()})

    def _conflicts(self) -> list[tuple[str, str]]:
        """Fields that are each allowed but not together; a stage overrides this."""
        return []


def parse(stage: Any, data: Any) -> Request:
    """The request of `stage` with the fields of `data`, a mapping from names to values as JSON or text has them.

    Raises:
        RequestError: the stage or a field is unknown, or a value is not allowed; all problems at once.
    """
    if not isinstance(stage, str) or stage not in STAGE_REQUESTS:
        advice = suggestion(stage, STAGE_REQUESTS) if isinstance(stage, str) else f"give {', '.join(STAGE_REQUESTS)}"
        raise RequestError([("stage", f"{shown(stage)} is not a stage; {advice}")])
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise RequestError([("", f"{shown(data)} is not a request; give field names with their values")])
    return STAGE_REQUESTS[stage](**data)


def plain_defaults(stage: str, profile: str = "full") -> dict[str, Any]:
    """Every field of a stage with its default under `profile`, in types that papermill and forms can hold.

    No value is None: a number that may be None is "auto", a text or a required field is "". `parse` reads them back.

    Raises:
        RequestError: the stage or the profile is unknown.
    """
    if stage not in STAGE_REQUESTS:
        raise RequestError([("stage", f"{shown(stage)} is not a stage; {suggestion(stage, STAGE_REQUESTS)}")])
    if profile not in PROFILES:
        raise RequestError([("profile", f"{shown(profile)} is not a profile; {suggestion(profile, PROFILES)}")])
    overrides = {**PROFILES[profile].default_overrides(stage), "profile": profile}
    defaults: dict[str, Any] = {}
    for name, view in fields_of(STAGE_REQUESTS[stage]).items():
        value = overrides.get(name, view.default)
        if value is None:
            value = "" if view.kind == "str" else "auto"
        defaults[name] = list(value) if isinstance(value, tuple) else value
    return defaults


def _as_written(view: FieldView, value: Any) -> Any:
    """`value` as pydantic should see it: None for the words that mean it, no truth values for numbers."""
    if view.optional and isinstance(value, str) and value.strip().lower() in NONE_WORDS:
        return None
    if view.kind in ("int", "float"):
        if isinstance(value, bool):
            raise refused(f"must be {view.allowed}")
        if isinstance(value, numbers.Integral):  # numpy's whole numbers are not int
            return int(value)
    if view.is_file and value is not None:
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise refused(f"must be {view.allowed}")
    return value


def _fault(path: Path) -> str:
    """What is wrong with an input file, or nothing."""
    try:
        if not path.exists():
            return "does not exist"
        if not path.is_file():
            return "is not a file"
        if path.stat().st_size == 0:
            return "is empty"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if os.access(path, os.R_OK) else "cannot be read (no permission)"
