"""Command-line options that set a `TrainingConfig`: those of `training.train` and of `training.launch`.

Every field is a flag of its name, such as `--learning_rate 1e-5`. The flags of the predecessor's script work too, or
are refused with what replaces them (`training.config.predecessor`).
"""

import argparse
import json
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from training.config.predecessor import ALWAYS, INSTEAD, RENAMED
from training.config.recipes import RECIPES
from training.config.training_config import GROUPS, TrainingConfig, problems_of, with_current_names
from wanavatar_lab.errors import LabError

_SET = "set a field to a JSON value, such as --set learning_rate 1e-5; repeatable, and stronger than all other options"
_METAVARS = {int: "INT", float: "NUMBER", bool: "true|false", Path: "PATH", str: "TEXT"}
_FIELD, _THEIRS = "field:", "predecessor:"  # before the names in the namespace, where a launcher has options of its own


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the options that `config_of` reads."""
    # an abbreviation would be ambiguous as soon as a field is added
    parser.allow_abbrev = False
    parser.add_argument("--recipe", choices=RECIPES, help="settings to start from; all other options override them")
    parser.add_argument("--config", type=Path, help="a JSON file with fields; the options below override them")
    parser.add_argument("--set", nargs=2, action="append", default=[], metavar=("FIELD", "VALUE"), help=_SET)
    group: Any = parser
    for name, field in TrainingConfig.model_fields.items():
        if name in GROUPS:
            group = parser.add_argument_group(GROUPS[name])
        kinds = _kinds(field)
        options = {"dest": _FIELD + name, "default": None, "nargs": "?", "const": "true"} if bool in kinds else {}
        options |= {"dest": _FIELD + name, "default": None, "metavar": _metavar(kinds)}
        group.add_argument(f"--{name}", help=_help(field), **options)
        if "_" in name:
            group.add_argument(f"--{name.replace('_', '-')}", **options | {"help": argparse.SUPPRESS})
    for name in RENAMED | ALWAYS | INSTEAD:
        parser.add_argument(f"--{name}", dest=_THEIRS + name, nargs="*", default=None, help=argparse.SUPPRESS)


def config_of(arguments: argparse.Namespace) -> TrainingConfig:
    """The config: `--set` overrides the fields' own flags, these override the file, and the file the recipe.

    Raises:
        LabError: the file cannot be read, a field is missing or has a value that is not allowed, or a flag of the
            predecessor has no equivalent.
    """
    fields: dict[str, Any] = dict(RECIPES[arguments.recipe]()) if arguments.recipe else {}
    if arguments.config:
        try:
            fields |= with_current_names(dict(json.loads(arguments.config.read_text(encoding="utf-8-sig"))))
        except (OSError, ValueError, TypeError) as error:
            raise LabError(f"{arguments.config} cannot be read: {error}. Give a JSON file of settings.") from error
    flags = {name: value for name, value in vars(arguments).items() if value is not None}
    theirs = {name.removeprefix(_THEIRS): value for name, value in flags.items() if name.startswith(_THEIRS)}
    own = {name.removeprefix(_FIELD): value for name, value in flags.items() if name.startswith(_FIELD)}
    try:
        given = _translated(theirs, own)
        fields |= {name: _value(text, _kinds(TrainingConfig.model_fields[name])) for name, text in given.items()}
        told = {name: _json(text) for name, text in arguments.set}
        return TrainingConfig(**fields | with_current_names(told))
    except ValidationError as error:
        raise LabError("; ".join(f"{name}: {why}" if name else why for name, why in problems_of(error))) from error


def _translated(theirs: Mapping[str, Sequence[str]], own: Mapping[str, str]) -> dict[str, str]:
    """Values by field, of the predecessor's flags and of our own.

    Raises:
        LabError: one of theirs has no equivalent, or is given beside ours.
    """
    found = dict(own)
    for name, words in theirs.items():
        value = " ".join(words) or "true"
        if field := RENAMED.get(name):
            if field in found:
                raise LabError(f"--{name} and --{field} are the same setting: give one of them.")
            found[field] = value
        elif not _same(value, ALWAYS.get(name)):
            raise LabError(f"--{name} {' '.join(words)}".rstrip() + f" is not an option here: {INSTEAD[name]}.")
    return found


def _same(value: str, other: str | None) -> bool:
    return other is not None and (value.lower() == other or _json(value) == _json(other))


def _kinds(field: FieldInfo) -> set[Any]:
    """The types that a field's value may have: int, float, bool, Path, str, NoneType, and the values of a Literal."""
    annotation: Any = field.annotation
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    return set(get_args(annotation)) if isinstance(annotation, types.UnionType) else {annotation}


def _metavar(kinds: set[Any]) -> str:
    known = [word for kind, word in _METAVARS.items() if kind in kinds]
    return "|".join(known or sorted(kinds))


def _help(field: FieldInfo) -> str:
    says = " ".join((field.description or "").split()).replace("%", "%%")
    if field.is_required():
        return says
    default = json.dumps(field.default).strip('"')
    return f"{says} Default: {default}."


def _value(text: str, kinds: set[Any]) -> Any:
    """What a flag says: a path or a word as it stands, else the JSON value."""
    if type(None) in kinds and text.lower() in ("null", "none"):
        return None
    return _json(text) if kinds & {int, float, bool} else text


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
