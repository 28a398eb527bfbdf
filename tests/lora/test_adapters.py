"""Adapters in a network: their weights add up, change and leave without a trace."""

import gc
import weakref
from collections.abc import Iterator
from unittest.mock import Mock

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from torch._dynamo.testing import CompileCounter

from tests.lora.files import (
    NETWORKS,
    State,
    deltas,
    merged,
    output,
    own_layers,
    random_layers,
    unscaled,
    written,
)
from tests.s2v.toy import relative_error
from wanavatar_lab.lora.adapters import Adapters, adapters_of
from wanavatar_lab.lora.match import Update, match


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def update(network: nn.Module, seed: int, **diffs: torch.Tensor) -> tuple[Update, State]:
    layers = random_layers(network, own_layers(network), seed)
    state = written(layers, lambda name: name, "lora_A", "lora_B")
    for name, diff in diffs.items():
        state[name.replace("__", ".")] = diff
    return match(network, state, {}, str(seed)), deltas(layers, unscaled)


def loaded(kind: str, **seeds: int) -> tuple[nn.Module, nn.Module, Adapters, dict[str, State]]:
    """A network, a plain copy, its adapters by name and seed, and what they come to."""
    plain, network = NETWORKS[kind](), NETWORKS[kind]()
    adapters, differences = adapters_of(network), {}
    for name, seed in seeds.items():
        one, differences[name] = update(plain, seed)
        adapters.load(name, one)
    return network, plain, adapters, differences


def active(network: nn.Module) -> set[str]:
    return {name for layer in network.modules() if isinstance(layer, LoraLayer) for name in layer.active_adapters}


@pytest.mark.parametrize("kind", NETWORKS)
def test_two_add_up_by_their_weights(kind: str) -> None:
    network, plain, adapters, differences = loaded(kind, face=0, style=1)
    for weights in ({"face": 0.5, "style": 1.5}, {"style": 2.0}, {"face": 1.0, "style": 0.25}):
        adapters.set_weights(weights)
        wanted = merged(plain, *(differences[name] for name in weights), weights=tuple(weights.values()))
        assert relative_error(output(network), output(wanted)) <= 1e-5
        assert active(network) == set(weights)


def test_what_has_no_weight_is_out_of_the_computation() -> None:
    network, plain, adapters, _ = loaded("wan", face=0, style=1)
    adapters.set_weights({"face": 0.0, "style": 0.0})
    assert active(network) == set()
    calls: list[str] = []
    for name, module in network.named_modules():
        if ".lora_A." in name:
            module.register_forward_hook(lambda *_, name=name: calls.append(name))
    assert torch.equal(output(network), output(plain))
    assert not calls
    adapters.set_weights({"face": 0.0, "style": 1.0})
    output(network)
    assert calls and all(name.endswith("style") for name in calls)


def test_one_that_runs_out_of_memory_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    network, plain, adapters, _ = loaded("s2v")
    one, difference = update(plain, 0)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(type(network), "load_lora_adapter", Mock(side_effect=MemoryError))
        adapters.load("face", one)
    assert adapters.loaded() == set()
    adapters.load("face", one)
    adapters.set_weights({"face": 1.0})
    assert relative_error(output(network), output(merged(plain, difference))) <= 1e-5


def test_the_last_one_leaves_the_network_as_it_was() -> None:
    network, plain, adapters, differences = loaded("s2v", face=0, style=1)
    adapters.set_weights({"face": 1.0, "style": 1.0})
    adapters.unload(["face"])
    assert adapters.loaded() == {"style"}
    assert relative_error(output(network), output(merged(plain, differences["style"]))) <= 1e-5
    adapters.unload(["style"])
    assert [type(module) for module in network.modules()] == [type(module) for module in plain.modules()]
    assert torch.equal(output(network), output(plain))
    again, _ = update(plain, 0)
    adapters.load("face", again)
    adapters.set_weights({"face": 1.0})
    assert relative_error(output(network), output(merged(plain, differences["face"]))) <= 1e-5


def test_weights_that_stay_say_that_nothing_changed() -> None:
    network, _, adapters, _ = loaded("wan", face=0)
    assert adapters.set_weights({"face": 1.0})
    assert not adapters.set_weights({"face": 1.0})
    assert adapters.set_weights({"face": 0.5})
    assert adapters.set_weights({"face": 0.0})
    assert not adapters.set_weights({})
    assert active(network) == set()


def test_differences_of_two_add_up_and_go_back_exactly() -> None:
    plain, network = NETWORKS["wan"](), NETWORKS["wan"]()
    adapters, name = adapters_of(network), "blocks.1.norm2.weight"
    one, other = torch.randn(24), torch.randn(24)
    adapters.load("face", update(plain, 0, blocks__1__norm2__diff=one)[0])
    adapters.load("style", update(plain, 1, blocks__1__norm2__diff=other)[0])
    original = plain.get_parameter(name)
    for face, style in ((1.0, 1.0), (0.3, 1.7), (0.0, 0.1), (1 / 3, 0.0)):
        adapters.set_weights({"face": face, "style": style})
        wanted = original + face * one + style * other
        assert torch.allclose(network.get_parameter(name), wanted, atol=1e-6)
    adapters.unload(["face"])
    adapters.set_weights({})
    assert torch.equal(network.get_parameter(name), original)


def test_half_precision_takes_the_dtype_of_each_layer() -> None:
    network = NETWORKS["s2v"]()
    network.blocks.to(torch.bfloat16)
    adapters = adapters_of(network)
    adapters.load("face", update(NETWORKS["s2v"](), 0)[0])
    for layer in network.modules():
        if isinstance(layer, LoraLayer):
            assert layer.lora_A["face"].weight.dtype == layer.get_base_layer().weight.dtype


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_that_is_stored_in_8_bits_takes_adapters_in_their_own_numbers(kind: str, device: str) -> None:
    plain, network = NETWORKS[kind](), NETWORKS[kind]()
    one, difference = update(plain, 0)
    network.enable_layerwise_casting(  # type: ignore[operator]
        storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32
    )
    # what the network computes with: its weights in 8 bits, widened
    widened = merged(plain, {n: p.detach().float() - plain.get_parameter(n) for n, p in network.named_parameters()})
    network.to(device)
    without = output(network, device)
    adapters = adapters_of(network)
    adapters.load("face", one)
    for weight in (1.0, 0.3):
        adapters.set_weights({"face": weight})
        wanted = output(merged(widened, difference, weights=(weight,)).to(device), device)
        # a GPU rounds the factors of convolutions to ten bits
        assert relative_error(output(network, device), wanted) <= (1e-5 if device == "cpu" else 1e-2)
    adapters.set_weights({})
    assert torch.equal(output(network, device), without)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_layers_that_are_offloaded_one_by_one_have_adapters_too(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # cuDNN would round a convolution's factors to ten bits, those of the merged weights to others than those of two
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    plain, network = NETWORKS["wan"](), NETWORKS["wan"]()
    network.enable_group_offload(  # type: ignore[operator]
        onload_device=torch.device(device), offload_type="leaf_level", use_stream=device == "cuda"
    )
    norm = 0.1 * torch.randn(24)
    one, difference = update(plain, 0, blocks__1__norm2__diff=norm)
    adapters = adapters_of(network)
    without = output(network, device)
    adapters.load("face", one)
    for weight in (1.0, 0.5):
        adapters.set_weights({"face": weight})
        wanted = merged(plain, difference, {"blocks.1.norm2.weight": norm}, weights=(weight, weight))
        for _ in range(2):  # from the second call on layers are fetched ahead
            assert relative_error(output(network, device), output(wanted.to(device), device)) <= 1e-4
    adapters.unload(["face"])
    assert torch.equal(output(network, device), without)


def test_a_network_that_is_gone_takes_its_adapters_along() -> None:
    network = NETWORKS["wan"]()
    kept = weakref.ref(adapters_of(network))
    assert adapters_of(network) is kept()
    del network
    gc.collect()
    assert kept() is None


# of one network in `make test`, since it is the same code for all
@pytest.mark.parametrize("kind", ["s2v", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("flux2", "wan"))])
def test_other_weights_compile_nothing(kind: str) -> None:
    network, plain, adapters, differences = loaded(kind, face=0, style=1)
    compiler = CompileCounter()
    network.compile_repeated_blocks(fullgraph=True, backend=compiler)  # type: ignore[operator]
    adapters.set_weights({"face": 1.0, "style": 1.0})
    output(network)
    graphs = compiler.frame_count
    assert graphs > 0
    for face, style in ((0.5, 0.25), (1.5, 0.0), (0.0, 0.0), (0.3, 2.0)):
        adapters.set_weights({"face": face, "style": style})
        wanted = merged(plain, differences["face"], differences["style"], weights=(face, style))
        assert relative_error(output(network), output(wanted)) <= 1e-5
    # between runs no adapter counts
    adapters.set_weights({})
    adapters.set_weights({"face": 0.7, "style": 0.7})
    output(network)
    assert compiler.frame_count == graphs
