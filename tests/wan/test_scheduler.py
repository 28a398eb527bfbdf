"""The flow solver against the reference's."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from tests.s2v.toy import golden_tensors, relative_error
from wanavatar_lab.s2v.denoise import Sampling, prepare_scheduler
from wanavatar_lab.wan.scheduler import flow_sigmas, flow_unipc

CPU = torch.device("cpu")


@pytest.mark.parametrize(("steps", "shift"), [(25, 3.0), (40, 5.0)])
def test_equals_the_reference(steps: int, shift: float) -> None:
    golden = golden_tensors("flow_unipc_a.safetensors")
    solver = prepare_scheduler(flow_unipc(), Sampling(steps, 1.0, shift), CPU)
    assert torch.equal(solver.timesteps, golden[f"{steps}_{shift}_timesteps"])
    latents = golden[f"{steps}_{shift}_start"]
    for t in solver.timesteps:
        latents = solver.step(0.4 * latents - torch.sin(2 * latents + t / 200), t, latents, return_dict=False)[0]
    assert relative_error(latents, golden[f"{steps}_{shift}_end"]) <= 1e-4


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 40])
def test_any_number_of_steps_ends_at_the_clean_picture(steps: int) -> None:
    # for the flow of a straight line every step is exact, whatever the order
    solver = prepare_scheduler(flow_unipc(), Sampling(steps, 1.0, 3.0), CPU)
    noise, clean = torch.randn(2, 1, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    assert len(solver.timesteps) == steps
    # the first sigma is a thousandth below 1
    latents = solver.sigmas[0] * noise + (1 - solver.sigmas[0]) * clean
    for t in solver.timesteps:
        latents = solver.step(noise - clean, t, latents, return_dict=False)[0]
    assert relative_error(latents, clean) <= 1e-5


def test_each_segment_gets_a_solver_of_its_own() -> None:
    scheduler = flow_unipc()
    first = prepare_scheduler(scheduler, Sampling(4, 1.0, 5.0), CPU)
    latents = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    first.step(latents, first.timesteps[0], latents)
    second = prepare_scheduler(scheduler, Sampling(4, 1.0, 5.0), CPU)
    assert second.step_index is None
    assert second.model_outputs == [None, None]
    assert scheduler.config.flow_shift == 3.0


def test_another_flow_solver_walks_the_same_sigmas() -> None:
    unipc = prepare_scheduler(flow_unipc(), Sampling(8, 1.0, 5.0), CPU)
    euler = prepare_scheduler(FlowMatchEulerDiscreteScheduler(), Sampling(8, 1.0, 5.0), CPU)
    assert torch.allclose(euler.sigmas, unipc.sigmas, atol=1e-6)


def test_sigmas_fall_from_just_below_one() -> None:
    sigmas = flow_sigmas(40)
    assert len(sigmas) == 40
    assert sigmas[0] == pytest.approx(0.999, abs=1e-7)
    assert (sigmas[1:] < sigmas[:-1]).all()
    assert sigmas[-1] > 0


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("num_inference_steps", {"num_inference_steps": 0}),
        ("guidance_scale", {"guidance_scale": float("nan")}),
        ("flow_shift", {"flow_shift": 0.0}),
        ("flow_shift", {"flow_shift": float("inf")}),
        ("pose_start", {"pose_range": (0.7, 0.2)}),
        ("pose_end", {"pose_range": (0.0, 1.5)}),
    ],
)
def test_a_sampling_that_cannot_be_is_refused_by_name(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=field):
        replace(Sampling(4, 4.5, 3.0), **values)
