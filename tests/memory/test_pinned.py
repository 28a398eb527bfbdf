"""Weights in pinned host memory. Without a GPU another copy in host memory plays the one on the device."""

import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests import toys
from wanavatar_lab.errors import LabError
from wanavatar_lab.lora.adapters import adapters_of
from wanavatar_lab.lora.match import match
from wanavatar_lab.memory import pinned as pinned_module
from wanavatar_lab.memory.pinned import PinnedWeights, pinned, pinned_bytes


class Tied(nn.Module):
    """Two names for one weight, a buffer, a number of no dimension and a weight of no size."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(6)
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.pictures = nn.Conv2d(2, 3, 3).to(memory_format=torch.channels_last)


def settled(weights: PinnedWeights, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tensors are copied to main memory at each call."""
    counts: list[int] = []
    settle = weights._settle

    def count(tensors: list[torch.Tensor]) -> None:
        counts.append(len(tensors))
        settle(tensors)

    monkeypatch.setattr(weights, "_settle", count)
    return counts


def values(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(module: nn.Module, wanted: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, wanted[name]) for name, tensor in module.state_dict().items())


def test_there_and_back_the_weights_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Tied()
    wanted, parameters = values(module), list(module.parameters())
    weights = pinned(module)
    counts = settled(weights, monkeypatch)
    weights.onload("cpu")
    assert same(module, wanted)
    away = {name: tensor.data_ptr() for name, tensor in module.named_parameters()}
    weights.offload()
    assert same(module, wanted)
    assert [tensor is parameter for tensor, parameter in zip(module.parameters(), parameters, strict=True)]
    assert module.first.weight.data_ptr() != away["first.weight"], "it is in host memory again"
    assert module.pictures.weight.is_contiguous(memory_format=torch.channels_last)
    assert counts[1:] == [0], "nothing is copied back"


def test_tied_weights_are_kept_once_and_stay_tied() -> None:
    module = Tied()
    weights = pinned(module)
    weights.offload()
    assert weights.host_bytes == sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))
    weights.onload("cpu")
    assert module.first.weight is module.second.weight
    alias = nn.Module()
    alias.one = nn.Parameter(torch.ones(4))
    alias.two = nn.Parameter(alias.one.data)  # another parameter of the same memory
    pinned(alias).onload("cpu")
    assert alias.one.data_ptr() == alias.two.data_ptr()
    assert pinned(alias).host_bytes == 16


def test_coming_twice_copies_once(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Tied()
    pinned(module).onload("cpu")
    there = module.first.weight.data_ptr()
    counts = settled(pinned(module), monkeypatch)
    pinned(module).onload("cpu")
    assert module.first.weight.data_ptr() == there
    assert counts == [0]


@pytest.mark.parametrize("change", ["in place", "buffer", "by data", "new parameter"])
def test_what_changed_meanwhile_is_kept(change: str) -> None:
    module = Tied()
    pinned(module).onload("cpu")
    with torch.no_grad():
        if change == "in place":
            module.first.weight.fill_(3)
        elif change == "buffer":
            module.norm.running_mean.fill_(3)  # type: ignore[union-attr]
        elif change == "by data":
            module.first.weight.data = torch.full((6, 6), 3.0)
        else:
            module.first.weight = nn.Parameter(torch.full((6, 6), 3.0))
    wanted = values(module)
    pinned(module).offload()
    assert same(module, wanted)
    pinned(module).onload("cpu")
    assert same(module, wanted)
    assert float(wanted["norm.running_mean" if change == "buffer" else "first.weight"].flatten()[0]) == 3


def lora(network: nn.Module, rank: int = 2) -> Any:
    """An update of the first block's self-attention."""
    weight = network.get_parameter("blocks.0.attn1.to_q.weight")
    name = "transformer.blocks.0.attn1.to_q"
    down, up = torch.randn(rank, weight.shape[1]), torch.randn(weight.shape[0], rank)
    return match(network, {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, {}, "toy", None)


@pytest.mark.parametrize("loaded", ["while it waits", "while it works"])
def test_adapters_come_along_and_are_kept(loaded: str) -> None:
    network = toys.s2v_transformer()
    weights = pinned(network)
    weights.offload()
    if loaded == "while it works":
        weights.onload("cpu")
    adapters_of(network).load("mine", lora(network))
    adapters_of(network).set_weights({"mine": 1.0})
    wanted = values(network)
    for _ in range(2):
        weights.onload("cpu")
        assert same(network, wanted)
        weights.offload()
        assert same(network, wanted)
    assert any("lora_A" in name for name in wanted)
    with_adapter = weights.host_bytes
    adapters_of(network).unload(["mine"])
    weights.onload("cpu")
    weights.offload()
    assert weights.host_bytes < with_adapter, "what is gone from the network takes no memory"


def test_adapters_that_were_merged_into_the_weights_are_kept() -> None:
    network = toys.s2v_transformer()
    adapters_of(network).load("mine", lora(network))
    pinned(network).onload("cpu")
    layer: Any = network.get_submodule("blocks.0.attn1.to_q")
    before = layer.base_layer.weight.clone()
    layer.scaling["mine"] = 1.0
    layer.merge(adapter_names=["mine"])
    merged = layer.base_layer.weight.clone()
    assert not torch.equal(before, merged)
    pinned(network).offload()
    assert torch.equal(layer.base_layer.weight, merged)


def test_eight_bit_weights_are_not_copied_back(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.ModuleDict({"layer": nn.Linear(8, 8)})
    from diffusers.hooks import apply_layerwise_casting

    apply_layerwise_casting(module, torch.float8_e4m3fn, torch.float32)
    layer: Any = module["layer"]
    weights = pinned(module)
    weights.onload("cpu")
    wanted, there = values(module), layer.weight.data_ptr()
    layer(torch.ones(1, 8))
    assert layer.weight.dtype == torch.float8_e4m3fn
    assert layer.weight.data_ptr() != there, "the layer widened and narrowed its weights"
    counts = settled(weights, monkeypatch)
    weights.offload()
    assert counts == [0]
    assert all(torch.equal(tensor.float(), wanted[name].float()) for name, tensor in module.state_dict().items())


def test_weights_lie_in_pieces_and_large_ones_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned_module, "PIECE_BYTES", 1024)
    sizes: list[int] = []
    made = pinned_bytes

    def note(size: int) -> torch.Tensor:
        sizes.append(size)
        return made(size)

    monkeypatch.setattr(pinned_module, "pinned_bytes", note)
    module = nn.ParameterList([torch.ones(count) for count in (100, 100, 1000, 10)])
    wanted = values(module)
    pinned(module).onload("cpu")
    assert sizes == [1024, 4096, 256]
    assert same(module, wanted)


def test_a_module_that_is_gone_takes_its_memory_along() -> None:
    module = Tied()
    pinned(module).offload()
    weights = weakref.ref(pinned(module))
    del module
    gc.collect()
    assert weights() is None


class Runtime:
    """Stands for CUDA's runtime."""

    def __init__(self, code: int = 0) -> None:
        self.code = code
        self.pinned: dict[int, int] = {}

    def cudaHostRegister(self, pointer: int, size: int, _flags: int) -> int:
        if not self.code:
            self.pinned[pointer] = size
        return self.code

    def cudaHostUnregister(self, pointer: int) -> None:
        del self.pinned[pointer]


def with_gpu(monkeypatch: pytest.MonkeyPatch, runtime: Runtime) -> None:
    cuda = SimpleNamespace(is_available=lambda: True, cudart=lambda: runtime, synchronize=lambda: None)
    monkeypatch.setattr(torch, "cuda", cuda)


def test_memory_is_pinned_as_long_as_a_weight_lies_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = Runtime()
    with_gpu(monkeypatch, runtime)
    memory = pinned_bytes(10_000)
    memory[:] = 7
    assert runtime.pinned == {memory.data_ptr(): 10_000}
    view = memory[100:200]
    del memory
    gc.collect()
    assert len(runtime.pinned) == 1
    assert int(view.sum()) == 700
    del view
    gc.collect()
    assert runtime.pinned == {}


def test_a_system_that_pins_no_memory_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with_gpu(monkeypatch, Runtime(code=2))
    with pytest.raises(LabError, match=r"did not let 0\.0 GB .* \(CUDA error 2\).*ulimit -l"):
        pinned_bytes(10_000)
