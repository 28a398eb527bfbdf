"""What all requests share: reading, checking and writing values, defaults of a profile, and error messages."""

import difflib
import inspect
import numbers
import os
import re
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from wanavatar_lab.errors import RequestError
from wanavatar_lab.profiles import PROFILES, Profile
from wanavatar_lab.requests import display
from wanavatar_lab.requests.field_spec import FIELDS, Words, describe_schema, fields_of, spec, translated

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # which has no public name

STAGE_REQUESTS: dict[str, "type[Request]"] = {}  # by stage; the package's __init__ and custom stages fill it

# read as None: a form leaves the field empty, a command line and papermill pass "auto"
NONE_WORDS = {"", "auto", "none", "null"}

# how prompts of A1111 and its descendants name a LoRA, such as <lora:ann:0.8>
_LORA_TAG = re.compile(r"<\s*(?:lora|lyco)\s*:[^<>]*>", re.IGNORECASE)

LONGEST_SHOWN = 80  # characters of a value or of a name that a message repeats: one line of a terminal


class Described(BaseModel):
    """A frozen model whose fields have a `spec`, by which values are read and checked."""

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
        """The value for pydantic: None for the words that mean it; no booleans for numbers; paths as text."""
        view = fields_of(cls)[str(info.field_name)]
        if view.optional and isinstance(value, str) and value.strip().lower() in NONE_WORDS:
            return None
        if view.kind in ("int", "float"):
            if isinstance(value, bool):  # pydantic would read True as 1
                raise refused(f"must be {view.allowed}")
            if isinstance(value, numbers.Integral):  # numpy's integers are no subclass of int
                return int(value)
        if view.is_file and value is not None:
            value = os.fspath(value) if isinstance(value, os.PathLike) else value
            if not isinstance(value, str) or not value.strip() or "\0" in value:
                raise refused(f"must be {view.allowed}")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _check(cls, value: Any, info: ValidationInfo) -> Any:
        view = fields_of(cls)[str(info.field_name)]
        blank = view.required and isinstance(value, str) and not value.strip()
        unknown = view.options and value not in view.options
        off_step = view.step and value is not None and (value - int(view.minimum or 0)) % view.step
        if blank or unknown or off_step:
            raise refused(f"must be {view.allowed}")
        return value


class _RequestType(ModelMetaclass):
    """What `help`, `dir` and Tab show of a request's class: what is the stage's, and nothing of what pydantic adds."""

    def __dir__(cls) -> list[str]:
        own = [vars(kind) for kind in cls.__mro__ if isinstance(kind, _RequestType)]
        hidden = {"labels", "help"}  # in every language, for forms
        return sorted({name for names in own for name in names if not name.startswith(("_", "model_"))} - hidden)


class Request(Described, metaclass=_RequestType):
    """The parameters of a stage, checked. Each stage has a subclass with its fields.

    A field that is not given takes its default from the profile. Values may be text, as command lines and papermill
    pass them; error messages are the same for every interface.

    Raises:
        RequestError: for every invalid field its name, what it must be, and the value.
    """

    stage: ClassVar[str]
    labels: ClassVar[Words] = {}  # the stage's name in a form, by language; made from `stage` if empty
    help: ClassVar[Words] = {}  # one sentence, by language; the docstring's first line if empty
    artifact: ClassVar[str] = ""  # the kind of the main artifact; if empty, the first artifact is the main one
    suffix: ClassVar[str] = ""  # of the main artifact's file; empty if it depends on the run
    queued: ClassVar[bool] = True  # for the worker; a run that needs no model can be executed at once, beside it

    profile: Annotated[str, spec("Models", options={profile.name: profile.label for profile in PROFILES.values()})] = (
        "full"
    )
    """Full uses the published models; pocket uses toy models for trying things out on any CPU."""

    def __init__(self, /, **values: Any) -> None:
        name = values.get("profile", "full")
        overrides = PROFILES[name].default_overrides(self.stage) if isinstance(name, str) and name in PROFILES else {}
        try:
            super().__init__(**{**overrides, **values})
        except ValidationError as error:
            raise explain(type(self), error) from None
        # defaults of the profile are not fields that the user has set, and change with the profile
        self.model_fields_set.intersection_update(values)
        if problems := self._conflicts():
            raise RequestError(problems)

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        stage = getattr(cls, "stage", "")
        cls.labels = cls.labels or translated(stage.replace("_", " ").capitalize())
        summary = inspect.cleandoc(cls.__doc__ or "")
        cls.help = cls.help or translated(summary.partition("\n")[0])
        cls.__doc__ = f"{summary}{FIELDS}{display.help_of(cls)}"
        cls.__signature__ = display.signature_of(cls)

    def __dir__(self) -> list[str]:
        return sorted([*type(self).model_fields, *dir(type(self))])

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """What makes it again: the required fields, and those that differ from the profile's defaults."""
        return display.named_values(self)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """A table for a notebook, lines for a terminal; both mark what differs from the profile's defaults."""
        return {"text/plain": display.as_text(self), "text/html": display.as_html(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The request that `to_json` wrote; values that are its profile's defaults follow a changed profile.

        Raises:
            RequestError: the stage is unknown or not this class's, or a value is not allowed.
        """
        if not isinstance(data, Mapping):
            raise _not_a_request(data)
        request = parse(data.get("stage"), {key: value for key, value in data.items() if key != "stage"})
        if not isinstance(request, cls):
            raise RequestError([("stage", must_be(repr(cls.stage), request.stage))])
        # every field is written, so that only those that differ from the defaults are known to be chosen
        request.model_fields_set.intersection_update(dict(display.named_values(request)))
        return request

    def to_json(self) -> dict[str, Any]:
        """The stage and every field, as JSON types."""
        return {"stage": self.stage, **self.model_dump(mode="json")}

    def named(self) -> dict[str, Any]:
        """The fields that were given explicitly, as JSON types; all others have defaults."""
        return self.model_dump(mode="json", include=self.model_fields_set)

    def changed(self, /, **values: Any) -> Self:
        """A copy with some fields changed, checked again; defaults follow a changed profile."""
        return type(self)(**{**self.named(), **values})

    def the_profile(self) -> Profile:
        """The profile that `profile` names."""
        return PROFILES[self.profile]

    def input_files(self) -> dict[str, Path]:
        """The files that the run will read, by field."""
        values = {name: getattr(self, name) for name, view in fields_of(type(self)).items() if view.is_file}
        return {name: Path(value) for name, value in values.items() if value is not None}

    def check_inputs(self) -> None:
        """Check that every input file exists and can be opened, and that no prompt names a LoRA in a tag.

        The stage checks the contents of files.

        Raises:
            RequestError: for every file that is missing, empty, a folder, or not readable, and every prompt with a tag.
        """
        views = fields_of(type(self))
        problems = [
            (name, f"{shown(getattr(self, name))} {fault}; give {views[name].allowed}")
            for name, path in self.input_files().items()
            if (fault := _fault(path, getattr(self, name)))
        ]
        # not a rule of the field: a run of the past with such a prompt can still be read
        problems += [
            (name, f"has {shown(tag[0])}, which would be read as words: remove it, and put the LoRA into loras")
            for name, view in views.items()
            if view.widget == "textarea" and "loras" in views and (tag := _LORA_TAG.search(getattr(self, name)))
        ]
        if problems:
            raise RequestError(problems)

    def with_absolute_paths(self) -> Self:
        """The same request with absolute paths of input files, so that a process in another folder finds them."""
        return self.changed(**{name: str(path.absolute()) for name, path in self.input_files().items()})

    def _conflicts(self) -> list[tuple[str, str]]:
        """Fields that are each allowed but not together, with what is wrong; a stage overrides this."""
        return []


def parse(stage: Any, data: Any) -> Request:
    """The request of `stage` with the fields of `data`, a mapping from names to values as JSON types or text.

    Raises:
        RequestError: the stage or a field is unknown, or a value is not allowed; all problems at once.
    """
    if not isinstance(stage, str) or stage not in STAGE_REQUESTS:
        raise _unknown("stage", stage, STAGE_REQUESTS)
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise _not_a_request(data)
    return STAGE_REQUESTS[stage](**data)


def plain_defaults(stage: str, profile: str = "full") -> dict[str, Any]:
    """Every field of a stage with its default under `profile`, in types that papermill and forms can hold.

    No value is None: a number that may be None is "auto", a text or a required field is "". `parse` reads them back.

    Raises:
        RequestError: the stage or the profile is unknown.
    """
    if stage not in STAGE_REQUESTS:
        raise _unknown("stage", stage, STAGE_REQUESTS)
    if profile not in PROFILES:
        raise _unknown("profile", profile, PROFILES)
    defaults: dict[str, Any] = {}
    views = fields_of(STAGE_REQUESTS[stage])
    for name, value in display.defaults_of(STAGE_REQUESTS[stage], profile).items():
        if value is None:
            value = "" if views[name].kind == "str" else "auto"
        defaults[name] = list(value) if isinstance(value, tuple) else value
    return defaults


def prompt_of(values: Mapping[str, Any]) -> str:
    """What a person wrote in a request, given as JSON types: its prompt, or the text that is spoken; "" without one."""
    return str(values.get("prompt") or values.get("text") or "")


def refused(requirement: str) -> PydanticCustomError:
    """An error for a validator to raise; the message adds the value, as in "must be ... (got 5)".

    Args:
        requirement: what the value must be, beginning with the verb.
    """
    return PydanticCustomError("refused", "{requirement}", {"requirement": requirement})


def must_be(allowed: str, value: Any) -> str:
    """The message about a value that is not allowed: "must be an integer from 1 to 100 (got 'x')"."""
    return f"must be {allowed} (got {shown(value)})"


_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = LONGEST_SHOWN
_short.maxlevel = 3


def shown(value: Any) -> str:
    """A value as a message repeats it: short, and always printable."""
    return _short.repr(value)


def suggestion(name: Any, known: Iterable[str]) -> str:
    """What to add to a message about an unknown name: the nearest known one, or all."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6) if isinstance(name, str) else []
    return f"did you mean {near[0]!r}?" if near else f"there are {', '.join(names)}"


def explain(model: type[BaseModel], error: ValidationError) -> RequestError:
    """Turn pydantic's errors about `model` into one error that names every problem once."""
    problems: dict[str, str] = {}
    for entry in error.errors(include_url=False):
        place, owner, name = "", model, ""  # such as loras[0].high_weight, the model of that field, and its name there
        for index, part in enumerate(entry["loc"]):
            if isinstance(part, int):
                place += f"[{part}]"
                continue
            if index and isinstance(entry["loc"][index - 1], int):  # a field of an item of the list `name`
                item = owner.model_fields[name].annotation.__args__[0]  # type: ignore[union-attr]
                owner = item if isinstance(item, type) and issubclass(item, BaseModel) else owner
            trimmed = part if len(part) <= LONGEST_SHOWN else part[: LONGEST_SHOWN - 1] + "…"
            place += f".{trimmed}" if place else trimmed
            name = part
        views = fields_of(owner)
        if entry["type"] == "extra_forbidden":
            message = f"there is no such field; {suggestion(name, views)}"
        elif entry["type"] == "missing":
            message = f"is required: {views[name].allowed}"
        elif name in views and isinstance(entry["input"], str) and not entry["input"].strip():
            message = f"is empty; give {views[name].allowed}"
        elif entry["type"] == "refused" or name not in views:
            message = f"{entry['msg']} (got {shown(entry['input'])})"
        else:
            message = must_be(views[name].allowed, entry["input"])
        problems.setdefault(place, message)
    return RequestError(list(problems.items()))


def _unknown(kind: str, name: Any, known: Iterable[str]) -> RequestError:
    return RequestError([(kind, f"{shown(name)} is not a {kind}; {suggestion(name, known)}")])


def _not_a_request(data: Any) -> RequestError:
    return RequestError([("", f"{shown(data)} is not a request; give field names with their values")])


def _fault(path: Path, given: str) -> str:
    """What is wrong with an input file; empty if nothing is.

    Args:
        given: the path as it was given: a `Path` has lost a slash of a web address.
    """
    try:
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", given) and not path.exists():
            return "is a web address, and only files are read: download it"
        if not path.exists():
            return "does not exist"
        if not path.is_file():
            return "is not a file"
        if path.stat().st_size == 0:
            return "is empty"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if os.access(path, os.R_OK) else "cannot be read (no permission)"
