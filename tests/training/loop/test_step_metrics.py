"""What is logged of a step, by hand: means over processes, and gradients by the part of the network that they pull."""

import math

import pytest
import torch

from tests.training.toy import toy_with_adapter
from training.train import gradient_norms, means


def test_means_are_over_the_values_of_all_processes() -> None:
    one, other = {"loss": [1.0, 2.0], "lip": [4.0, math.nan]}, {"loss": [6.0], "lip": [math.nan], "face": [3.0]}
    assert means([one, other]) == {"loss": 3.0, "lip": 4.0, "face": 3.0}
    assert means([{"lip": [math.nan]}]) == {}


def test_one_loss_that_is_no_number_is_none_of_all() -> None:
    assert math.isnan(means([{"loss": [1.0]}, {"loss": [math.inf, -math.inf]}])["loss"])
    assert math.isnan(means([{"loss": [1.0, math.nan]}])["loss"])


def test_gradients_are_told_apart_by_part() -> None:
    network, _ = toy_with_adapter()
    network.patch_embedding.requires_grad_(True)
    expected: dict[str, float] = {}
    names = {"attn1": "self_attention", "attn2": "cross_attention", "ffn": "feed_forward", "audio_": "audio_injectors"}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            parameter.grad = torch.full_like(parameter, 2.0)
            group = next((names[key] for key in names if f".{key}" in name), "patch_embedding")
            expected[group] = expected.get(group, 0.0) + 4.0 * parameter.numel()
    assert len(expected) == 5
    found = gradient_norms(network)
    assert found == {f"gradient_norm_of_{group}": pytest.approx(square**0.5) for group, square in expected.items()}
