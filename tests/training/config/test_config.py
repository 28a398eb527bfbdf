"""The settings as they are documented, and learning rates by hand."""

import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from training.config.config import TrainingConfig
from training.config.recipes import RECIPES


def config(**told: Any) -> TrainingConfig:
    return TrainingConfig(samples=Path("samples"), run=Path("run"), **told)


@pytest.mark.parametrize("recipe", ["s2v_14b_1gpu", "s2v_14b_2gpu"])
def test_the_defaults_are_the_documented_ones(recipe: str) -> None:
    found = config(**RECIPES[recipe]())
    assert (found.rank, found.alpha, found.learning_rate, found.weight_decay, found.clip) == (128, 64, 1e-4, 3e-2, 0.05)
    assert (found.epochs, found.batch, found.dropout, found.loss) == (10, 1, 0.1, "normalised")
    assert found.accumulation * (2 if recipe.endswith("2gpu") else 1) == 8


def test_the_learning_rate_rises_and_then_stays_or_falls_along_a_cosine() -> None:
    constant = config(learning_rate=0.8, warm_up=4)
    assert [constant.learning_rate_at(step, 100) for step in (0, 1, 3, 4, 99)] == pytest.approx(
        [0.2, 0.4, 0.8, 0.8, 0.8]
    )
    cosine = config(learning_rate=1.0, schedule="cosine")
    assert [cosine.learning_rate_at(step, 100) for step in (0, 50, 100)] == pytest.approx([1.0, 0.525, 0.05])
    quarter = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi / 4))
    assert config(learning_rate=1.0, schedule="cosine", warm_up=50).learning_rate_at(25, 100) == pytest.approx(
        quarter * 26 / 50
    )


@pytest.mark.parametrize("told", [{"clip": 0}, {"dropout": 1}, {"loss": "mean"}, {"keep": 0}, {"speed": 3}])
def test_what_no_run_can_be_told_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(told))):
        config(**told)
