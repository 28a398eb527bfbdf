"""A linear layer with adapters makes what PEFT's own makes, and costs little."""

from typing import Any

import pytest
import torch
from peft import LoraConfig
from peft.tuners import lora
from torch import nn

from wanavatar_lab.bench import network as bench
from wanavatar_lab.bench.network import random_adapter
from wanavatar_lab.lora.adapters import AdaptedLinear, adapt, adapters_of
from wanavatar_lab.s2v import SegmentMemory

SCALES = {"face": 0.5, "style": 2.0}


def layers(
    dtype: torch.dtype = torch.float32, bias: bool = True, names: tuple[str, ...] = ("face", "style")
) -> tuple[Any, Any]:
    """PEFT's layer, and ours with the same weights."""
    torch.manual_seed(0)
    made = []
    for _ in range(2):
        layer: Any = lora.Linear(nn.Linear(48, 80, bias=bias), names[0], LoraConfig(r=4), r=4)
        for name in names[1:]:
            layer.update_layer(name, 4, lora_alpha=4, config=LoraConfig(r=4))
        for name in names:
            nn.init.normal_(layer.lora_B[name].weight, std=0.1)
            layer.scaling[name] = torch.tensor(SCALES[name])
        layer.set_adapter(list(names))
        made.append(layer.to(dtype).requires_grad_(False))
    made[1].load_state_dict(made[0].state_dict())
    adapt(made[1])
    assert type(made[1]) is AdaptedLinear and isinstance(made[1], lora.Linear)
    return made[0], made[1]


def exact(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """In twice as many bits as any of them has."""
    weight = layer.base_layer.weight.double()
    for name in layer.active_adapters:
        update = layer.lora_B[name].weight.double() @ layer.lora_A[name].weight.double()
        weight = weight + SCALES[name] * update
    bias = layer.base_layer.bias
    return nn.functional.linear(x.double(), weight, None if bias is None else bias.double())


@pytest.mark.parametrize("shape", [(48,), (3, 48), (2, 5, 48)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("names", [("face",), ("face", "style")])
@torch.no_grad()
def test_it_makes_what_peft_makes(shape: tuple[int, ...], bias: bool, names: tuple[str, ...]) -> None:
    theirs, ours = layers(bias=bias, names=names)
    x = torch.randn(shape)
    kept = x.clone()
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)
    assert ours(x).shape == (*shape[:-1], 80)
    assert torch.equal(x, kept)
    assert torch.allclose(ours(x).double(), exact(ours, x), atol=1e-5)


@torch.no_grad()
def test_half_precision_loses_less() -> None:
    theirs, ours = layers(torch.bfloat16)
    x = torch.randn(256, 48, dtype=torch.bfloat16)
    wanted = exact(ours, x)
    assert (ours(x) - wanted).abs().mean() < (theirs(x) - wanted).abs().mean()


@torch.no_grad()
def test_only_what_is_active_counts() -> None:
    _, ours = layers()
    x = torch.randn(4, 48)
    ours.set_adapter(["style"])
    assert torch.allclose(ours(x).double(), exact(ours, x), atol=1e-5)
    ours.set_adapter([])
    assert torch.equal(ours(x), ours.base_layer(x))
    ours.set_adapter(["face"])
    wanted = exact(ours, x)
    ours.merge()
    assert torch.allclose(ours(x).double(), wanted, atol=1e-5)
    ours.unmerge()
    ours.enable_adapters(False)
    assert torch.equal(ours(x), ours.base_layer(x))


def test_gradients_flow() -> None:
    _, ours = layers()
    ours.requires_grad_(True)
    ours(torch.randn(4, 48)).sum().backward()
    assert all(parameter.grad is not None for parameter in ours.parameters())


@torch.no_grad()
def test_hooks_of_the_layer_below_are_called() -> None:
    theirs, ours = layers()
    x = torch.randn(4, 48)
    handle = ours.base_layer.register_forward_hook(lambda *given: given[-1] + 1)
    assert torch.allclose(ours(x), theirs(x) + 1, atol=1e-5)
    handle.remove()
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


@torch.no_grad()
def test_a_network_that_is_stored_in_8_bits_computes_as_before() -> None:
    network: Any = bench.random_model("tiny", torch.float32, torch.device("cpu"))
    adapters_of(network).load("face", random_adapter(network, 4))
    adapters_of(network).set_weights({"face": 1.0})
    inputs = bench.random_inputs(network, 64, 64, 8, torch.device("cpu"), torch.float32)
    before = network(**inputs, memory=SegmentMemory())[0]
    network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert any(parameter.dtype == torch.float8_e4m3fn for parameter in network.parameters())
    after = network(**inputs, memory=SegmentMemory())[0]
    assert 0 < float((after - before).norm() / before.norm()) < 0.2
