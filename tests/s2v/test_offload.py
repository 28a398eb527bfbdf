"""Weights that lie elsewhere and come when their module is called: from disk, from the meta device, to a GPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import cpu_offload  # type: ignore[import-untyped]

from tests import toys
from tests.memory.test_model_offload import clip
from tests.s2v.toy import at_step, flow, relative_error, toy_inputs, toy_model
from wanavatar_lab.s2v import SegmentMemory

CPU = torch.device("cpu")
KINDS: dict[str, dict[str, Any]] = {
    "block by block": {"offload_type": "block_level", "num_blocks_per_group": 1},
    "two blocks at a time": {"offload_type": "block_level", "num_blocks_per_group": 2},
    "leaf by leaf": {"offload_type": "leaf_level"},
}
# a pose or none, motion or none: each takes another way through the embedders
CASES: dict[str, dict[str, Any]] = {
    "all": {},
    "no pose": {"pose_latents": None},
    "first segment": {"motion_latents": None, "drop_motion_frames": True},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", KINDS)
def test_from_disk_the_numbers_are_the_same(kind: str, case: str, tmp_path: Path) -> None:
    # an offloaded weight is uninitialised memory: whoever reads it without calling its module reads noise
    model, inputs = toy_model(), {**toy_inputs(), **CASES[case]}
    wanted = [flow(model, at_step(inputs, step)) for step in range(3)]
    model.enable_group_offload(onload_device=CPU, offload_device=CPU, offload_to_disk_path=str(tmp_path), **KINDS[kind])
    memory = SegmentMemory()
    for step, expected in enumerate(wanted):
        assert relative_error(flow(model, at_step(inputs, step), memory=memory), expected) <= 1e-7


@pytest.mark.parametrize("case", CASES)
def test_weight_by_weight_the_numbers_are_the_same(case: str) -> None:
    model, inputs = toy_model(), {**toy_inputs(), **CASES[case]}
    wanted = flow(model, inputs)
    cpu_offload(model, execution_device=CPU)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    memory = SegmentMemory()
    for _ in range(2):
        assert relative_error(flow(model, inputs, memory=memory), wanted) <= 1e-7


@pytest.mark.gpu
@pytest.mark.parametrize("use_stream", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_to_a_gpu_the_numbers_are_the_same(kind: str, use_stream: bool) -> None:
    model, inputs, device = toy_model(), toy_inputs(), torch.device("cuda")
    wanted = [flow(model, at_step(inputs, step)) for step in range(4)]
    model.enable_group_offload(onload_device=device, use_stream=use_stream, **KINDS[kind])
    # two segments: the second fills a memory with modules that the stream's prefetching has not seen since
    for _ in range(2):
        memory = SegmentMemory()
        for step, expected in enumerate(wanted):
            moved = {
                name: value.to(device) if isinstance(value, torch.Tensor) else value
                for name, value in at_step(inputs, step).items()
            }
            assert relative_error(flow(model, moved, memory=memory).cpu(), expected) <= 1e-3


@pytest.mark.gpu
def test_a_pipeline_offloaded_weight_by_weight_makes_the_same_clip() -> None:
    arguments: dict[str, Any] = {
        "image": torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0)),
        "audio_features": torch.rand(3, 20, 16, generator=torch.Generator().manual_seed(1)),
        "prompt": "a person speaks",
        "negative_prompt": "",
        "height": 64,
        "width": 64,
        "frames_per_segment": 4,
        "motion_frames": 5,
        "num_inference_steps": 2,
        "output_type": "pt",
    }
    wanted = toys.s2v_pipeline()(**arguments).frames
    pipeline = toys.s2v_pipeline()
    pipeline.enable_sequential_cpu_offload()
    assert relative_error(pipeline(**arguments).frames, wanted) <= 1e-2


def test_networks_are_named_in_the_order_in_which_they_are_called() -> None:
    # enable_model_cpu_offload sends a network away when the next one of this order is called
    pipeline = toys.s2v_pipeline()
    called: list[str] = []
    order = pipeline.model_cpu_offload_seq.split("->")
    for name in order[:-1]:
        getattr(pipeline, name).register_forward_pre_hook(lambda *_, name=name: called.append(name))
    clip(pipeline)
    assert list(dict.fromkeys(called)) == order[:-1]
    assert order[-1] == "vae", "which encodes before the transformer works, and decodes after it"
