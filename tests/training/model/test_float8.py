"""Frozen weights in eight bits: how much is lost, and what is left alone."""

import torch
from torch import nn

from tests.s2v.toy import flow, relative_error, toy_inputs, toy_model
from training.model.adapter import add_adapter
from training.model.float8 import Float8Linear, store_in_float8


def test_a_weight_comes_back_to_within_half_of_an_eighth() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(64, 48)
    # rows of very different size, one of them zero
    layer.weight.data = torch.randn(48, 64, generator=generator) * torch.logspace(-6, 4, 48)[:, None]
    layer.weight.data[5] = 0
    stored = Float8Linear(layer)
    error = (stored.restored(torch.float32) - layer.weight).abs()
    largest = layer.weight.abs().amax(dim=1, keepdim=True)
    assert (error <= torch.maximum(layer.weight.abs() / 16, largest / 2**16)).all()
    assert torch.equal(stored.restored(torch.bfloat16).float(), stored.restored(torch.float32)), "no second rounding"
    assert stored.weight.nbytes * 4 == layer.weight.nbytes
    assert torch.equal(stored.to(torch.bfloat16).weight, Float8Linear(layer).weight), "bits are not numbers"


def test_the_blocks_are_stored_and_the_lora_is_not() -> None:
    network = toy_model()
    trained = add_adapter(network, 4, 2.0, seed=0)
    wanted, linear = flow(network, toy_inputs()), len(trained) // 2
    assert store_in_float8(network.blocks) == linear
    stored = [name for name, layer in network.named_modules() if isinstance(layer, Float8Linear)]
    assert all(name.startswith("blocks.") for name in stored) and store_in_float8(network.blocks) == 0
    assert 1e-4 < relative_error(flow(network, toy_inputs()), wanted) < 0.1
    network(**toy_inputs(), return_dict=False)[0].square().mean().backward()
    assert all(matrix.grad is not None and matrix.dtype == torch.float32 for matrix in trained)
    assert {name for name, weight in network.named_parameters() if weight.requires_grad and "lora" not in name} == set()
