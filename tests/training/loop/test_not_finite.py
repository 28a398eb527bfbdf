"""A gradient that is not finite: its step is skipped and counted, and no such value is saved or started from."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from tests.s2v.toy import toy_model
from tests.training.toy import config_of, write_samples
from training.loop.checkpoint import FACTS, STATE, same_bits
from training.loop.run_folder import WEIGHTS, checkpoints, read_metrics
from training.train import NotFinite, train
from wanavatar_lab.errors import LabError

BROKEN = "sample-1"


def break_samples(folder: Path, *names: str, value: float = float("nan")) -> None:
    for name in names:
        tensors = load_file(folder / f"{name}.safetensors")
        tensors["target"][0, 0, 0, 0] = value
        save_file(tensors, folder / f"{name}.safetensors")


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Samples, one with a NaN in its latent; three of the six steps of a run use it."""
    write_samples(tmp_path / "samples", held_out=0)
    break_samples(tmp_path / "samples", BROKEN)
    return tmp_path / "samples"


def state_of(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / WEIGHTS) | load_file(checkpoint / STATE)


def test_a_step_is_skipped_and_counted_and_changes_nothing(
    samples: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_of(tmp_path, checkpointing_steps=1, checkpoints_total_limit=99, ema_decay=0.5)
    train(config, toy_model())
    said = capsys.readouterr().out
    lines = read_metrics(config.run, "train")
    counts = [int(line["skipped_steps"]) for line in lines]
    skipped = [line["step"] for line, count, before in zip(lines, counts, [0, *counts], strict=False) if count > before]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6] and 0 < len(skipped) < 6
    assert skipped == [line["step"] for line in lines if "gradient_norm" not in line]
    reason = "skipped: its gradient is not finite (norm nan), nor the loss of its micro-batches with "
    assert said.count(reason) == len(skipped)
    assert f"with {BROKEN}" in said
    board = EventAccumulator(str(config.run / "tensorboard"))
    board.Reload()
    assert [event.value for event in board.Scalars("step/skipped_steps")] == counts
    saved = [state_of(folder) for folder in checkpoints(config.run)]
    assert all(bool(torch.isfinite(tensor).all()) for each in saved for tensor in each.values())
    for step in range(2, 7):
        assert same_bits(saved[step - 1], saved[step - 2]) == (step in skipped)


def test_a_run_that_resumes_has_skipped_as_often(samples: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(config_of(tmp_path, run=whole), toy_model())
    for until in (1, 2, 4, 6):
        train(config_of(tmp_path, run=broken, max_train_steps=until), toy_model())
    one, other = (state_of(checkpoints(run)[-1]) for run in (whole, broken))
    assert same_bits(one, other)
    last = [json.loads((checkpoints(run)[-1] / FACTS).read_text())["skipped_steps"] for run in (whole, broken)]
    assert last[0] == last[1] > 0


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_after_some_in_a_row_the_training_stops_and_says_where_to_resume(tmp_path: Path, value: float) -> None:
    write_samples(tmp_path / "samples", held_out=0)
    train(config_of(tmp_path, max_train_steps=4), toy_model())
    break_samples(tmp_path / "samples", *(f"sample-{i}" for i in range(6)), value=value)
    config = config_of(tmp_path, max_train_steps=99, checkpointing_steps=99, skipped_steps_limit=3)
    for _ in range(2):
        with pytest.raises(NotFinite, match=r"3 steps in a row were skipped.*Step 7 was skipped.*sample-") as stopped:
            train(config, toy_model())
        assert "resumes from checkpoint-4, which is sound; if this comes again, remove" in str(stopped.value)
        assert "to go back to checkpoint-2" in str(stopped.value)
        assert [folder.name for folder in checkpoints(config.run)] == ["checkpoint-2", "checkpoint-4"]
    with pytest.raises(NotFinite, match="Then start it again"):
        train(config.model_copy(update={"run": tmp_path / "new"}), toy_model())
    assert checkpoints(tmp_path / "new") == []


def test_a_checkpoint_after_skipped_steps_only_is_that_of_no_step(tmp_path: Path) -> None:
    write_samples(tmp_path / "samples", held_out=0)
    good = load_file(tmp_path / "samples" / "sample-0.safetensors")
    names = [f"sample-{i}" for i in range(6)]
    break_samples(tmp_path / "samples", *names)
    train(config_of(tmp_path, max_train_steps=2), toy_model())
    (folder,) = checkpoints(tmp_path / "run")
    state = load_file(folder / STATE)
    assert all(not tensor.any() for tensor in state.values())
    assert json.loads((folder / FACTS).read_text())["skipped_steps"] == 2
    assert not torch.isnan(good["target"]).any()


@pytest.mark.parametrize("file", [WEIGHTS, STATE])
def test_a_checkpoint_that_holds_nan_is_not_started_from(tmp_path: Path, file: str) -> None:
    write_samples(tmp_path / "samples")
    config = config_of(tmp_path, checkpoints_total_limit=3)
    train(config, toy_model())
    for step in (4, 6):
        path = config.run / f"checkpoint-{step}" / file
        tensors = load_file(path)
        name = next(key for key in tensors if not key.endswith("alpha"))
        tensors[name].view(-1)[0] = float("nan")
        save_file(tensors, path)
    with pytest.raises(LabError, match=f"checkpoint-6/{file} has NaN or infinite values in 1 tensors") as refused:
        train(config, toy_model())
    assert "Remove checkpoint-6 and checkpoint-4 to resume from checkpoint-2, which is sound" in str(refused.value)
    if file == WEIGHTS:
        other = config.model_copy(update={"run": tmp_path / "other", "init_from": config.run / "checkpoint-6"})
        with pytest.raises(LabError, match=r"has NaN or infinite values.*Give an earlier checkpoint as init_from"):
            train(other, toy_model())


def test_no_weight_is_saved_that_is_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_samples(tmp_path / "samples")
    config = config_of(tmp_path)
    train(config.model_copy(update={"max_train_steps": 2}), toy_model())
    step = torch.optim.AdamW.step

    def diverging(self: torch.optim.AdamW, closure: None = None) -> None:
        step(self, closure)
        self.param_groups[0]["params"][0].data[0] = float("inf")

    monkeypatch.setattr(torch.optim.AdamW, "step", diverging)
    with pytest.raises(LabError, match=r"It is not saved\. Start it again to resume from checkpoint-2, which is sound"):
        train(config.model_copy(update={"skipped_steps_limit": 99}), toy_model())
    assert [folder.name for folder in checkpoints(config.run)] == ["checkpoint-2"]
