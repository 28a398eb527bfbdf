"""Networks that take turns. Without a GPU a copy in main memory stands for the one on the device."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from accelerate.hooks import remove_hook_from_module  # type: ignore[import-untyped]
from diffusers.hooks.group_offloading import _GROUP_OFFLOADING, ModuleGroup
from torch import nn

from tests import toy_flux, toys
from tests.s2v.toy import at_step, flow, toy_inputs, toy_model
from tests.toy_i2v import i2v_pipeline
from wanavatar_lab.memory import take_turns as turns
from wanavatar_lab.memory.pinned import pinned
from wanavatar_lab.memory.place import networks
from wanavatar_lab.memory.take_turns import leave_with_the_block, stay_on_two, take_turns
from wanavatar_lab.s2v import SegmentMemory

CPU = torch.device("cpu")


def is_on(module: nn.Module, _: torch.device) -> bool:
    weights = pinned(module)
    return not any(weights._at_home(tensor) for tensor in module.parameters())


def clip(pipeline: Any) -> torch.Tensor:
    return pipeline(
        image=torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)),
        audio=torch.sin(torch.arange(8000) / 20),
        prompt="a person speaks",
        negative_prompt="",
        height=64,
        width=64,
        frames_per_segment=4,
        motion_frames=5,
        num_inference_steps=2,
        output_type="pt",
    ).frames


def moving(pipeline: Any) -> torch.Tensor:
    return pipeline(
        image=torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)),
        prompt="a person speaks",
        negative_prompt="",
        height=64,
        width=64,
        num_frames=5,
        num_inference_steps=3,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).frames


def picture(pipeline: Any) -> torch.Tensor:
    return pipeline(
        prompt="a person",
        width=64,
        height=64,
        num_inference_steps=1,
        generator=torch.Generator().manual_seed(0),
        output_type="pt",
    ).images


KINDS = pytest.mark.parametrize(
    ("build", "make"),
    [(toys.s2v_pipeline, clip), (i2v_pipeline, moving), (toy_flux.pipeline, picture)],
    ids=["speech to video", "image to video", "text to image"],
)


@KINDS
def test_one_at_a_time_makes_the_same(
    build: Callable[[], Any], make: Callable[[Any], torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = make(build())
    monkeypatch.setattr(turns, "module_on", is_on)
    pipeline = build()
    parts = networks(pipeline)
    take_turns(list(parts.values()), CPU)
    assert not any(is_on(part, CPU) for part in parts.values())
    brought: list[str] = []
    together: list[int] = []
    onload = type(pinned(pipeline.transformer)).onload

    def watch(weights: Any, device: torch.device) -> None:
        onload(weights, device)
        brought.extend(name for name, part in parts.items() if pinned(part) is weights)
        together.append(sum(is_on(part, CPU) for part in parts.values()))

    monkeypatch.setattr(type(pinned(pipeline.transformer)), "onload", watch)
    for _ in range(2):
        assert torch.equal(make(pipeline), wanted)
    assert set(together) == {1}
    assert set(brought) == parts.keys()
    assert pipeline._execution_device == CPU


@KINDS
def test_a_text_encoder_aside_makes_the_same(build: Callable[[], Any], make: Callable[[Any], torch.Tensor]) -> None:
    wanted, pipeline = make(build()), build()
    parts = networks(pipeline)
    stay_on_two(parts.values(), parts["text_encoder"], CPU, CPU)
    assert torch.equal(make(pipeline), wanted)


def test_hooks_can_be_taken_off() -> None:
    pipeline = toys.s2v_pipeline()
    take_turns(list(networks(pipeline).values()), CPU)
    pipeline.remove_all_hooks()
    assert not any(hasattr(part, "_hf_hook") for part in networks(pipeline).values())
    assert clip(pipeline).shape[1] > 0


def test_what_stays_aside_gets_its_inputs_there_and_gives_back_here(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[torch.device] = []

    def send(value: Any, device: torch.device) -> Any:
        sent.append(device)
        return value

    monkeypatch.setattr(turns, "send_to_device", send)
    aside, other = nn.Linear(2, 2), nn.Linear(2, 2)
    second = torch.device("cpu:0")
    stay_on_two([aside, other], aside, CPU, second)
    aside(torch.ones(1, 2))
    assert sent == [second, second, CPU], "arguments and names there, the result back"
    other(torch.ones(1, 2))
    assert len(sent) == 3
    remove_hook_from_module(aside)


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
        monkeypatch.setattr(turns, "is_fetched", lambda group: group in self.there)
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
    leave_with_the_block(network)
    for step in (1, 2):
        made = fetching.call(step)
        assert not fetching.there
        if step == 1:
            assert torch.equal(made, wanted)
    assert fetching.most < plain.most, "no more than one block's at a time"
