"""The benchmark of a training step runs where there is no GPU, and compares gradients as it says."""

import json
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from training import bench
from training.model.activations import Activations


def figures(capsys: pytest.CaptureFixture[str], words: str) -> dict[str, Any]:
    assert bench.main(["--toy", "--device", "cpu", "--steps", "1", *words.split()]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("words", ["--eager", "--eager --base-dtype fp8 --keep-attention 1 --offload 0"])
def test_a_step_has_the_gradients_of_the_plain_one(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(capsys, f"{words} --check 2")
    # float8 rounds the weights: the plain step on rounded ones has the same gradients, that on the true ones nearly so
    prefix = "computation_" if "fp8" in words else ""
    assert 0.999 <= found[f"{prefix}gradient_cosine"] <= 1
    assert found[f"{prefix}gradient_cosine_of_the_worst_matrix"] > 0.99 and 0.998 <= found["gradient_cosine"] <= 1
    assert abs(found["gradient_norm_ratio"] - 1) < 0.02 and found["step_s"] > 0
    assert "peak_memory_gb" not in found, "the memory of a CPU is not measured, so nothing is said of it"
    assert found["trained"] == 2 * 7040 and not found["plain"]


def test_other_gradients_would_be_noticed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    right = bench.Bench.gradients

    def wrong(self: bench.Bench, number: int = 0) -> list[torch.Tensor]:
        found = right(self, number)
        return [gradient.flip(0) for gradient in found] if self.setting.lean else found

    monkeypatch.setattr(bench.Bench, "gradients", wrong)
    assert figures(capsys, "--eager --check 2")["gradient_cosine"] < 0.9


def test_the_plain_step_is_pefts_own(capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(capsys, "--plain --dtype float32 --layers 2")
    assert found["plain"] and (found["keep_attention"], found["offload"], found["compiled"]) == (0, 0, False)


def test_the_work_that_is_counted_is_the_least_that_is_done() -> None:
    size, setting = (128, 192, 16), bench.Setting(Activations(None))
    made = bench.Bench(setting, dict(bench.TOY), 4, size, torch.device("cpu"), torch.float32)
    made.network.disable_gradient_checkpointing()
    with FlopCounterMode(display=False) as counter:
        made.gradients()
    # patches, time, text and the audio's few tokens are left out of the formula
    assert bench.step_flops(made.network, size, 4) == pytest.approx(counter.get_total_flops(), rel=0.25)
