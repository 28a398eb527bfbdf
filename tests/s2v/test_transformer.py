"""The network: its numbers, its memory between steps, its number formats, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.s2v.toy import (
    at_step,
    blocks,
    count_calls,
    flow,
    golden_model,
    golden_tensors,
    relative_error,
    toy_inputs,
    toy_model,
)
from wanavatar_lab.s2v import SegmentMemory, WanS2VTransformer3DModel
from wanavatar_lab.wan.scheduler import flow_unipc, set_flow_timesteps


@pytest.mark.parametrize("motion", [True, False], ids=["motion kept", "motion dropped"])
@pytest.mark.parametrize("name", ["s2v_model_a", "s2v_loop_a"])
def test_equals_the_reference(name: str, motion: bool) -> None:
    inputs: dict[str, Any] = dict(golden_tensors(f"{name}/io.safetensors"))
    outputs = {True: inputs.pop("output"), False: inputs.pop("output_drop_motion")}
    found = flow(golden_model(name), inputs, motion_frames=73, drop_motion_frames=not motion)
    assert relative_error(found, outputs[motion]) <= 1e-4


@pytest.mark.parametrize("motion", [True, False])
def test_a_batch_equals_its_members(motion: bool) -> None:
    model, both = toy_model(), toy_inputs(batch=2, motion=motion)
    both["timestep"] = torch.tensor([900, 300])
    together = flow(model, both)
    for i in range(2):
        one = {name: value[i : i + 1] if isinstance(value, torch.Tensor) else value for name, value in both.items()}
        assert relative_error(flow(model, one), together[i : i + 1]) <= 1e-6


@pytest.mark.parametrize("motion", [True, False])
def test_memory_changes_nothing(motion: bool) -> None:
    model, inputs, memory = toy_model(), toy_inputs(batch=2, motion=motion), SegmentMemory()
    for step in range(3):
        now = at_step(inputs, step)
        assert relative_error(flow(model, now, memory=memory), flow(model, now)) <= 1e-7


def test_what_does_not_change_between_steps_is_computed_once() -> None:
    model, inputs, memory = toy_model(), toy_inputs(), SegmentMemory()
    once: dict[str, nn.Module] = {
        "text": model.condition_embedder.text_embedder,
        "audio encoder": model.causal_audio_encoder,
        "frame packer": model.frame_packer,
        "rope": model.rope,
        "token kinds": model.token_kind_embedding,
    }
    every: dict[str, nn.Module] = {"time": model.condition_embedder.time_embedder}
    for i, block in enumerate(blocks(model)):
        once |= {f"text key {i}": block.attn2.to_k, f"text value {i}": block.attn2.to_v}
        every |= {f"key {i}": block.attn1.to_k, f"text query {i}": block.attn2.to_q}
        if block.audio_injection is not None:
            heard = block.audio_injection.attn
            once |= {f"audio key {i}": heard.to_k, f"audio value {i}": heard.to_v}
            every |= {f"audio query {i}": heard.to_q}
    with count_calls(once | every) as calls:
        for step in range(3):
            flow(model, at_step(inputs, step), memory=memory)
    assert calls == dict.fromkeys(once, 1) | dict.fromkeys(every, 3)


def test_a_forgotten_memory_is_filled_again() -> None:
    model, memory = toy_model(), SegmentMemory()
    flow(model, toy_inputs(seed=1), memory=memory)
    memory.forget_projections()
    other = toy_inputs(seed=2)
    assert relative_error(flow(model, other, memory=memory), flow(model, other)) <= 1e-7


class Float64Seen(TorchDispatchMode):
    """Collects the operations that read or write float64."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(x, torch.Tensor) and x.dtype == torch.float64 for x in tree_leaves((args, kwargs, result))):
            self.operations.append(str(func))
        return result


@pytest.mark.parametrize("scheduler", [flow_unipc(), FlowMatchEulerDiscreteScheduler()], ids=lambda s: type(s).__name__)
def test_no_step_computes_in_float64(scheduler: Any) -> None:
    model, inputs, memory = toy_model(), toy_inputs(), SegmentMemory()
    timesteps = set_flow_timesteps(scheduler, 3, "cpu")
    latents = inputs["hidden_states"]
    flow(model, inputs, memory=memory)
    with Float64Seen() as seen:
        for timestep in timesteps:
            prediction = flow(model, inputs, hidden_states=latents, timestep=timestep.expand(1), memory=memory)
            latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
    assert seen.operations == []
    with Float64Seen() as seen:  # that the watcher sees at all
        latents.double().sum()
    assert seen.operations


def test_no_pose_is_a_pose_of_zeros() -> None:
    model, inputs = toy_model(), toy_inputs()
    without = flow(model, inputs, pose_latents=None)
    assert relative_error(without, flow(model, inputs, pose_latents=torch.zeros(1, 16, 3, 8, 8))) <= 1e-7
    assert relative_error(without, flow(model, inputs)) > 1e-3


def test_short_text_and_few_motion_latents_are_filled_with_zeros() -> None:
    model, inputs = toy_model(), toy_inputs()
    inputs["motion_latents"] = inputs["motion_latents"][:, :, -2:]
    filled = {
        **inputs,
        "encoder_hidden_states": nn.functional.pad(inputs["encoder_hidden_states"], (0, 0, 0, 505)),
        "motion_latents": nn.functional.pad(inputs["motion_latents"], (0, 0, 0, 0, 17, 0)),
    }
    assert relative_error(flow(model, inputs), flow(model, filled)) <= 1e-7


@pytest.mark.parametrize("name", ["audio_adain", "cross_attn_norm", "zero_timestep"])
def test_a_variant_that_was_never_published_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is false; only the published S2V network"):
        toy_model(**{name: False})


def test_the_result_is_a_named_output_unless_a_tuple_is_wanted() -> None:
    model, inputs = toy_model(), toy_inputs()
    with torch.no_grad():
        assert torch.equal(model(**inputs).sample, flow(model, inputs))


def test_training_gives_every_parameter_a_gradient() -> None:
    model = toy_model().train()
    model(**toy_inputs()).sample.square().mean().backward()
    without = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert without == []


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    model, inputs = toy_model(audio_inject_layers=(1, 3)), toy_inputs()
    model.save_pretrained(tmp_path)
    loaded = WanS2VTransformer3DModel.from_pretrained(tmp_path)
    assert torch.equal(flow(loaded, inputs), flow(model, inputs))
    assert {name: parameter.shape for name, parameter in loaded.named_parameters()} == {
        name: parameter.shape for name, parameter in model.named_parameters()
    }


def test_in_bfloat16_what_needs_float32_keeps_it(tmp_path: Path) -> None:
    model, inputs = toy_model(), toy_inputs()
    model.save_pretrained(tmp_path)
    half = WanS2VTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    kept = set(WanS2VTransformer3DModel._keep_in_fp32_modules)
    for name, parameter in half.named_parameters():
        wanted = torch.float32 if kept & set(name.split(".")) else torch.bfloat16
        assert parameter.dtype == wanted, name
    assert {part for name, _ in half.named_parameters() for part in name.split(".")} >= kept - {"norm1", "norm3"}
    found = flow(half, inputs, hidden_states=inputs["hidden_states"].bfloat16())
    assert found.dtype == torch.float32  # as the head computes it
    assert relative_error(found, flow(model, inputs)) <= 0.01


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("hidden_states", (1, 16, 3, 7, 8)),
        ("hidden_states", (16, 3, 8, 8)),
        ("hidden_states", (1, 8, 3, 8, 8)),
        ("timestep", (2,)),
        ("encoder_hidden_states", (1, 513, 24)),
        ("encoder_hidden_states", (7, 24)),
        ("ref_latents", (1, 16, 1, 8, 10)),
        ("ref_latents", (1, 16, 2, 8, 8)),
        ("audio_embeds", (1, 3, 8, 11)),
        ("audio_embeds", (1, 25, 8, 12)),
        ("pose_latents", (1, 16, 1, 8, 8)),
        ("motion_latents", (1, 16, 19, 8, 16)),
        ("motion_latents", (1, 16, 0, 8, 8)),
    ],
)
def test_a_shape_that_does_not_fit_is_named(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=name) as refused:
        flow(toy_model(), toy_inputs(), **{name: torch.zeros(shape)})
    assert str(shape) in str(refused.value) or "513" in str(refused.value)


def test_motion_is_not_dropped_by_forgetting_it() -> None:
    with pytest.raises(ValueError, match="motion_latents"):
        flow(toy_model(), toy_inputs(), motion_latents=None)


def test_a_block_that_hears_must_exist() -> None:
    with pytest.raises(ValueError, match=r"\[4\]"):
        toy_model(audio_inject_layers=(0, 4))
