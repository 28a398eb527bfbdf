"""How a choice is applied to a pipeline, and what an earlier one leaves behind."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from accelerate.hooks import remove_hook_from_module  # type: ignore[import-untyped]
from diffusers.hooks.group_offloading import _GROUP_OFFLOADING, ModuleGroup
from torch import nn
from torch._subclasses import FakeTensorMode

from tests import toys
from tests.memory.machines import machine
from tests.memory.test_model_offload import CPU, KINDS, clip
from tests.memory.test_pinned import lora
from tests.s2v.toy import at_step, flow, toy_inputs, toy_model
from wanavatar_lab.bench import random_models
from wanavatar_lab.errors import LabError, WeightsError
from wanavatar_lab.lora.adapters import adapters_of
from wanavatar_lab.memory import Choice, Workload, choose_offload, usual_workload
from wanavatar_lab.memory import apply_offload as module
from wanavatar_lab.memory.apply_offload import (
    OffloadableModels,
    apply_offload,
    components_in,
    networks,
    offload_unused_layers,
    place_on_two_gpus,
    set_products,
    store_in_8_bits,
)
from wanavatar_lab.memory.components import DENOISERS
from wanavatar_lab.memory.model_offload import enable_model_offload
from wanavatar_lab.memory.pinned import pinned
from wanavatar_lab.s2v import SegmentMemory, WanS2VTransformer3DModel

WORKLOAD = usual_workload("speech_to_video", "pocket")


class Toy(OffloadableModels):
    """The toy pipeline, counting how often it is loaded."""

    def __init__(self, device: str = "cpu") -> None:
        self.device, self.reads = device, 0
        self.read()

    def read(self) -> None:
        self.pipeline = toys.s2v_pipeline()
        self.reads += 1


def key_of(models: OffloadableModels) -> str | None:
    return None if models.choice is None else models.choice.key


@pytest.fixture(name="placed")
def placed_fixture(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """A GPU of 80 GB, and each choice that would be applied to it, with the one before."""
    moves: list[tuple[str, str | None]] = []

    def pretend(_: Any, __: str, choice: Choice, before: Choice | None) -> None:
        moves.append((choice.key, None if before is None else before.key))

    monkeypatch.setattr(choose_offload, "this_machine", lambda *_, **__: machine(80))
    monkeypatch.setattr(module, "apply_offload", pretend)
    return moves


def test_on_a_cpu_every_mode_leaves_the_pipeline_there() -> None:
    models = Toy()
    for offload in ("auto", "none", "group"):
        assert models.apply_offload(offload, WORKLOAD).mode == "none"
        models.offload_to_host()
    assert models.reads == 1
    assert clip(models.pipeline).shape[1] > 0


def test_what_diffusers_cannot_undo_is_loaded_anew(placed: list[tuple[str, str | None]]) -> None:
    models = Toy()
    for offload in ("none", "model", "group", "group", "fp8", "fp8", "model"):
        models.apply_offload(offload, WORKLOAD)
    assert placed == [
        ("none", None),
        ("model", "none"),
        ("group", "model"),
        ("group", "group"),
        ("fp8", None),
        ("fp8", "fp8"),
        ("model", None),
    ]
    assert models.reads == 3


def test_a_choice_goes_by_the_weights_as_they_were_loaded(placed: list[tuple[str, str | None]]) -> None:
    models = Toy()
    before = models.components()
    models.apply_offload("fp8", WORKLOAD)
    models.pipeline.transformer.to(torch.bfloat16)
    assert models.components() == before
    assert models.host_bytes() == sum(component.gpu_bytes for component in before)


def test_after_a_choice_that_could_not_be_applied_the_pipeline_is_loaded_anew(
    placed: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Toy()
    pretend = module.apply_offload

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "apply_offload", fail)
    with pytest.raises(torch.OutOfMemoryError):
        models.apply_offload("none", WORKLOAD)
    assert key_of(models) is None
    models.offload_to_host()  # touches nothing, since weights may be anywhere
    monkeypatch.setattr(module, "apply_offload", pretend)
    models.apply_offload("none", WORKLOAD)
    assert (key_of(models), models.reads) == ("none", 2)


def test_a_choice_that_could_not_be_applied_leaves_the_gpu_to_other_stages(
    placed: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Toy("cuda")
    old = weakref.ref(models.pipeline)

    def fail(*_: Any) -> None:
        raise LabError("The system did not let 1.0 GB of main memory be pinned.")

    with monkeypatch.context() as patch:
        patch.setattr(module, "apply_offload", fail)
        with pytest.raises(LabError, match="be pinned"):
            models.apply_offload("model", WORKLOAD)
    assert models.host_bytes() > 0
    models.offload_to_host()
    assert old() is None and models.host_bytes() == 0
    models.apply_offload("none", WORKLOAD)
    assert (key_of(models), models.reads) == ("none", 2)


def test_a_pipeline_that_is_loaded_anew_does_not_lie_beside_the_old_one(
    placed: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Toy()
    models.apply_offload("fp8", WORKLOAD)
    old = weakref.ref(models.pipeline)
    read, gone = Toy.read, []

    def fail(_: Toy) -> None:
        gone.append(old() is None)
        raise WeightsError("cut short")

    monkeypatch.setattr(Toy, "read", fail)
    for _ in range(2):
        with pytest.raises(WeightsError):
            models.apply_offload("model", WORKLOAD)
        models.offload_to_host()
    assert gone == [True, True]
    monkeypatch.setattr(Toy, "read", read)
    models.apply_offload("model", WORKLOAD)
    assert (key_of(models), models.reads) == ("model", 2)
    assert clip(models.pipeline).shape[1] > 0


def test_what_does_not_fit_is_refused_and_moves_nothing(
    placed: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    models = Toy()
    models.apply_offload("none", WORKLOAD)
    monkeypatch.setattr(choose_offload, "this_machine", lambda *_, **__: machine(0.61))
    with pytest.raises(LabError, match="does not fit in any mode"):
        models.apply_offload("auto", Workload("speech_to_video", 720, 1280, 80))
    assert (key_of(models), placed) == ("none", [("none", None)])


def test_eight_bits_take_the_memory_that_was_said() -> None:
    pipeline = toys.s2v_pipeline()
    (said,) = [component.fp8_bytes for component in components_in(pipeline) if component.name == "transformer"]
    wanted = clip(pipeline)
    store_in_8_bits(pipeline.transformer)
    tensors = (*pipeline.transformer.parameters(), *pipeline.transformer.buffers())
    assert sum(tensor.nbytes for tensor in tensors) == said
    made = clip(pipeline)
    assert made.isfinite().all()
    assert (made - wanted).abs().mean() < 0.1


def test_adapters_of_earlier_runs_are_not_rounded_with_the_weights() -> None:
    network = toys.s2v_transformer()
    adapters_of(network).load("mine", lora(network))
    store_in_8_bits(network)
    assert adapters_of(network).loaded() == set()
    adapters_of(network).load("mine", lora(network))
    assert {weight.dtype for name, weight in network.named_parameters() if ".lora_" in name} == {torch.float32}


def choice_of(mode: str, tiled: bool = False) -> Choice:
    return Choice(mode, False, {}, {}, None, 0, "", tiled)


def test_a_run_that_needs_no_tiles_has_none_of_an_earlier_one() -> None:
    pipeline, tiled = toys.s2v_pipeline(), choice_of("none", tiled=True)
    apply_offload(pipeline, "cpu", tiled)
    assert (pipeline.vae.use_tiling, pipeline.vae.tile_sample_min_width) == (True, 256)
    apply_offload(pipeline, "cpu", choice_of("none"), tiled)
    assert not pipeline.vae.use_tiling


@KINDS
def test_products_in_float8_come_and_go(build: Callable[[], Any], make: Callable[[Any], torch.Tensor]) -> None:
    pipeline, exact = build(), choice_of("none")
    if not hasattr(pipeline.transformer, "blocks"):  # FLUX.2, which no request lets compute in float8
        return
    in_float8, wanted = replace(exact, quantization="fp8"), make(pipeline)
    apply_offload(pipeline, "cpu", in_float8)
    rounded = make(pipeline)
    assert 0 < (rounded - wanted).abs().mean() < 0.02
    apply_offload(pipeline, "cpu", in_float8, in_float8)
    assert torch.equal(make(pipeline), rounded)
    apply_offload(pipeline, "cpu", exact, in_float8)
    assert torch.equal(make(pipeline), wanted)


@KINDS
def test_products_in_float8_move_model_by_model(build: Callable[[], Any], make: Callable[[Any], torch.Tensor]) -> None:
    """By the hooks of a GPU, which are the same on a CPU; what waits in host memory is in 8 bits."""
    pipeline = build()
    denoisers = [part for name, part in networks(pipeline).items() if name in DENOISERS and hasattr(part, "blocks")]
    exact = replace(choice_of("model"), offloaded=True)
    wanted, sizes = make(pipeline), []
    for quantization in ("none", "fp8", "none", "fp8", "none"):
        pipeline.remove_all_hooks()
        for part in denoisers:
            set_products(part, CPU, replace(exact, quantization=quantization))
        enable_model_offload(list(networks(pipeline).values()), CPU)
        made = make(pipeline)
        assert torch.equal(made, wanted) == (quantization == "none" or not denoisers)
        sizes.append(sum(pinned(part).host_bytes for part in denoisers))
    assert len(set(sizes[::2])) == 1 and (not denoisers or sizes[1] == sizes[3] < sizes[0])


@KINDS
def test_a_text_encoder_on_a_second_gpu_makes_the_same(
    build: Callable[[], Any], make: Callable[[Any], torch.Tensor]
) -> None:
    wanted, pipeline = make(build()), build()
    parts = networks(pipeline)
    place_on_two_gpus(parts.values(), parts["text_encoder"], CPU, CPU)
    assert torch.equal(make(pipeline), wanted)


def test_inputs_and_outputs_move_between_two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[torch.device] = []

    def send(value: Any, device: torch.device) -> Any:
        sent.append(device)
        return value

    monkeypatch.setattr(module, "send_to_device", send)
    elsewhere, other = nn.Linear(2, 2), nn.Linear(2, 2)
    second = torch.device("cpu:0")
    place_on_two_gpus([elsewhere, other], elsewhere, CPU, second)
    elsewhere(torch.ones(1, 2))
    assert sent == [second, second, CPU], "arguments and names there, the result back"
    other(torch.ones(1, 2))
    assert len(sent) == 3
    remove_hook_from_module(elsewhere)


def test_the_gpu_that_computes_becomes_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    for moving in ("move_to_device", "fit_device"):
        monkeypatch.setattr(module, moving, lambda *_: None)
    pipeline = toys.s2v_pipeline()
    choice = choose_offload.choose(components_in(pipeline), WORKLOAD, machine(80), "none")
    apply_offload(pipeline, "cpu", choice)
    assert not current
    with FakeTensorMode(allow_non_fake_inputs=True):
        apply_offload(pipeline, "cuda:1", choice)
    assert current == [torch.device("cuda:1")]


class Fetching:
    """Layers of a network that are fetched as diffusers' stream fetches them: each by the one before it."""

    def __init__(self, network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.there: set[ModuleGroup] = set()
        self.most = 0
        order: list[ModuleGroup] = []

        def onload(group: ModuleGroup) -> None:
            order.append(group)
            self.there.add(group)
            self.most = max(self.most, len(self.there))

        monkeypatch.setattr(ModuleGroup, "onload_", onload)
        monkeypatch.setattr(ModuleGroup, "offload_", lambda group: self.there.discard(group))
        # on a CPU all weights are always where they compute
        monkeypatch.setattr(module, "is_fetched", lambda group: group in self.there)
        network.enable_group_offload(onload_device=CPU, offload_type="leaf_level")
        self.memory, self.network, self.order = SegmentMemory(), network, order
        self.call(0)
        hooks = {hook.group: hook for part in network.modules() if (hook := _hook(part)) is not None}
        for group, later in pairwise(order):
            hooks[group].next_group, later.onload_self = later, False
        self.most = 0

    def call(self, step: int) -> torch.Tensor:
        return flow(self.network, at_step(toy_inputs(), step), memory=self.memory)


def _hook(part: nn.Module) -> Any:
    registry = getattr(part, "_diffusers_hook", None)
    return registry.get_hook(_GROUP_OFFLOADING) if registry else None


def test_layers_that_were_fetched_and_not_called_leave_with_their_block(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        plain = Fetching(toy_model(), patch)
        wanted = plain.call(1)
        # those of the keys of each block's cross-attentions
        assert len(plain.there) >= len(plain.network.blocks)
    network = toy_model()
    fetching = Fetching(network, monkeypatch)
    offload_unused_layers(network)
    for step in (1, 2):
        made = fetching.call(step)
        assert not fetching.there
        if step == 1:
            assert torch.equal(made, wanted)
    assert fetching.most < plain.most, "no more than one block's at a time"


def test_eight_bits_compute_in_the_format_of_most_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def empty(shape: tuple[int, ...], dtype: torch.dtype, _: torch.device) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    monkeypatch.setattr(random_models, "random_tensor", empty)
    monkeypatch.setattr(random_models, "free_host_bytes", lambda: 10**12)  # they take none of it
    published = random_models.SIZES["published"]["s2v"]
    network = random_models.random_network(lambda: WanS2VTransformer3DModel(**published), torch.bfloat16)
    largest = max(network.parameters(), key=torch.Tensor.numel)
    assert largest.dtype == torch.float32, "time_proj, which says nothing of the others"
    assert module.compute_dtype(network) == torch.bfloat16
