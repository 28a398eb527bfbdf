"""Command-line options that set a `TrainingConfig`: those of `training.train` and of `training.launch`."""

import argparse
import json
from pathlib import Path
from typing import Any

from training.config.recipes import RECIPES
from training.config.training_config import TrainingConfig, with_current_names
from wanavatar_lab.errors import LabError

_SET = "set a field of TrainingConfig to a JSON value, such as --set learning_rate 1e-5; repeatable"


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add the options that `config_of` reads."""
    parser.add_argument("--config", type=Path, help="a JSON file with fields of training.config.TrainingConfig")
    parser.add_argument("--recipe", choices=RECIPES, help="settings to start from; all other options override them")
    parser.add_argument("--samples", type=Path, help="the folder that training.encode wrote")
    parser.add_argument("--run", type=Path, help="folder of the run; its newest checkpoint is resumed")
    parser.add_argument("--set", nargs=2, action="append", default=[], metavar=("FIELD", "VALUE"), help=_SET)


def config_of(arguments: argparse.Namespace) -> TrainingConfig:
    """The config: `--set` overrides `--samples` and `--run`, these override the file, and the file the recipe.

    Raises:
        LabError: the file cannot be read.
        ValueError: a field is missing, or has a value that is not allowed.
    """
    fields: dict[str, Any] = dict(RECIPES[arguments.recipe]()) if arguments.recipe else {}
    if arguments.config:
        try:
            fields |= with_current_names(dict(json.loads(arguments.config.read_text(encoding="utf-8"))))
        except (OSError, ValueError, TypeError) as error:
            raise LabError(f"{arguments.config} cannot be read: {error}. Give a JSON file of settings.") from error
    fields |= {name: getattr(arguments, name) for name in ("samples", "run") if getattr(arguments, name)}
    return TrainingConfig(**fields | with_current_names({name: _value(text) for name, text in arguments.set}))


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
