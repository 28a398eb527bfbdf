"""How a command line says what a run is told; `training.train` and `training.launch.launch` take the same words."""

import argparse
import json
from pathlib import Path
from typing import Any

from training.config.config import TrainingConfig
from training.config.recipes import RECIPES
from wanavatar_lab.errors import LabError


def add_config(parser: argparse.ArgumentParser) -> None:
    """Let a parser take what `config_of` reads."""
    parser.add_argument("--config", type=Path, help="a JSON file with fields of training.config.config.TrainingConfig")
    parser.add_argument("--recipe", choices=RECIPES, help="fields that nothing else says are those of the recipe")
    parser.add_argument("--samples", type=Path, help="the folder that training.encode has written")
    parser.add_argument("--run", type=Path, help="the folder of the run; one that is there goes on")
    parser.add_argument("--set", nargs=2, action="append", default=[], metavar=("FIELD", "VALUE"), help="as JSON")


def config_of(arguments: argparse.Namespace) -> TrainingConfig:
    """What was said: `--set` before `--samples` and `--run`, these before the file, and the file before the recipe.

    Raises:
        LabError: the file cannot be read.
        ValueError: a field is missing, or not what it must be.
    """
    told: dict[str, Any] = dict(RECIPES[arguments.recipe]()) if arguments.recipe else {}
    if arguments.config:
        try:
            told |= json.loads(arguments.config.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError) as error:
            raise LabError(
                f"{arguments.config} cannot be read: {error}. Name a JSON file with fields of a run."
            ) from error
    told |= {name: getattr(arguments, name) for name in ("samples", "run") if getattr(arguments, name)}
    told |= {name: _value(text) for name, text in arguments.set}
    return TrainingConfig(**told)


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
