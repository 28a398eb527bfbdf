"""The settings as they are documented, and learning rates by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from training.config import TrainingConfig
from training.config.recipes import RECIPES
from training.config.training_config import OLD_NAMES, problems_of
from training.data.batch_order import Order


def config(**told: Any) -> TrainingConfig:
    return TrainingConfig(samples=Path("samples"), run=Path("run"), **told)


@pytest.mark.parametrize("recipe", ["s2v_14b_1gpu", "s2v_14b_2gpu"])
def test_the_defaults_are_the_documented_ones(recipe: str) -> None:
    found = config(**RECIPES[recipe]())
    assert (found.rank, found.alpha, found.learning_rate, found.weight_decay, found.max_grad_norm) == (
        128,
        64,
        1e-4,
        3e-2,
        0.05,
    )
    assert (found.num_train_epochs, found.train_batch_size, found.conditioning_dropout_prob, found.loss) == (
        10,
        1,
        0.1,
        "normalised",
    )
    assert found.flow_shift == 3.0  # as the published sampling, and the request's default
    samples_a_step = {"s2v_14b_1gpu": 8, "s2v_14b_2gpu": 16}[recipe]
    order = Order(["square"], found.train_batch_size, found.gradient_accumulation_steps, int(recipe[-4]), found.seed)
    assert order.samples_a_step == samples_a_step


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_no_generator_takes_is_named(seed: int) -> None:
    with pytest.raises(ValidationError) as raised:
        config(seed=seed)
    ((name, why),) = problems_of(raised.value)
    assert name == "seed" and f"(got {seed})" in why
    config(seed=2**32 - 1)


def test_the_learning_rate_rises_and_then_stays_or_falls_along_a_cosine() -> None:
    constant = config(learning_rate=0.8, lr_warmup_steps=4)
    assert [constant.learning_rate_at(step, 100) for step in (0, 1, 3, 4, 99)] == pytest.approx(
        [0.2, 0.4, 0.8, 0.8, 0.8]
    )
    cosine = config(learning_rate=1.0, lr_scheduler="cosine")
    assert [cosine.learning_rate_at(step, 100) for step in (0, 50, 100)] == pytest.approx([1.0, 0.525, 0.05])
    quarter = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi / 4))
    assert config(learning_rate=1.0, lr_scheduler="cosine", lr_warmup_steps=50).learning_rate_at(
        25, 100
    ) == pytest.approx(quarter * 26 / 50)


@pytest.mark.parametrize(
    "told",
    [
        {"max_grad_norm": 0},
        {"conditioning_dropout_prob": 1},
        {"loss": "mean"},
        {"checkpoints_total_limit": 0},
        {"speed": 3},
    ],
)
def test_what_no_run_can_be_told_is_refused(told: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(told))):
        config(**told)


def test_old_names_are_read_with_one_warning() -> None:
    old = {"batch": 2, "clip": 1.0, "start": "old", "base": "fp8", "precision": "float32"}
    with pytest.warns(FutureWarning, match="batch is now train_batch_size, clip is now max_grad_norm") as warned:
        found = config(**old)
    assert len(warned) == 1
    new = config(train_batch_size=2, max_grad_norm=1.0, init_from="old", base_dtype="fp8", mixed_precision="no")
    assert found == new and "batch" not in found.model_dump()
    with pytest.raises(ValidationError, match="steps and max_train_steps are the same setting"):
        config(steps=3, max_train_steps=4)


@pytest.mark.filterwarnings("ignore:Old names")
def test_every_old_name_is_that_of_a_field() -> None:
    fields = TrainingConfig.model_fields
    assert set(OLD_NAMES.values()) <= fields.keys() and not fields.keys() & OLD_NAMES.keys()
    written = {old: json.loads(config().model_dump_json())[name] for old, name in OLD_NAMES.items()}
    written["precision"] = "bfloat16"
    assert config(**written) == config()
