"""Model offload and its variants. Without a GPU another copy in host memory plays the one on the device."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests import toy_flux, toys
from tests.toy_i2v import i2v_pipeline
from wanavatar_lab.memory import model_offload
from wanavatar_lab.memory.apply_offload import networks
from wanavatar_lab.memory.model_offload import enable_model_offload
from wanavatar_lab.memory.pinned import pinned

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
    monkeypatch.setattr(model_offload, "is_on_device", is_on)
    pipeline = build()
    parts = networks(pipeline)
    enable_model_offload(list(parts.values()), CPU)
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


def test_hooks_can_be_taken_off() -> None:
    pipeline = toys.s2v_pipeline()
    enable_model_offload(list(networks(pipeline).values()), CPU)
    pipeline.remove_all_hooks()
    assert not any(hasattr(part, "_hf_hook") for part in networks(pipeline).values())
    assert clip(pipeline).shape[1] > 0
