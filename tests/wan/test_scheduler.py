"""The flow solver against the reference's."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SchedulerMixin

from tests.s2v.toy import golden_tensors, relative_error
from wanavatar_lab.wan.scheduler import (
    SOLVERS,
    WanDPMSolverScheduler,
    flow_sigmas,
    flow_unipc,
    set_flow_timesteps,
    with_flow_shift,
)


def started(scheduler: SchedulerMixin, steps: int, shift: float) -> SchedulerMixin:
    """A solver of the same kind with that shift, before its first step."""
    solver = with_flow_shift(scheduler, shift)
    set_flow_timesteps(solver, steps, "cpu")
    return solver


@pytest.mark.parametrize(
    ("solver", "file", "steps", "shift"),
    [
        ("unipc", "flow_unipc_a", 25, 3.0),
        ("unipc", "flow_unipc_a", 40, 5.0),
        ("dpm++", "flow_dpm_a", 25, 3.0),
        ("dpm++", "flow_dpm_a", 40, 5.0),
        ("dpm++", "flow_dpm_a", 8, 3.0),  # of fewer than 15 steps the last are of lower order
    ],
)
def test_equals_the_reference(solver: str, file: str, steps: int, shift: float) -> None:
    golden = golden_tensors(f"{file}.safetensors")
    scheduler = started(SOLVERS[solver].shifted(1.0), steps, shift)
    assert torch.equal(scheduler.timesteps, golden[f"{steps}_{shift}_timesteps"])
    latents = golden[f"{steps}_{shift}_start"]
    for t in scheduler.timesteps:
        latents = scheduler.step(0.4 * latents - torch.sin(2 * latents + t / 200), t, latents, return_dict=False)[0]
    assert relative_error(latents, golden[f"{steps}_{shift}_end"]) <= 1e-4


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 40])
def test_any_number_of_steps_ends_at_the_clean_picture(steps: int, name: str) -> None:
    # for the flow of a straight line every step is exact, whatever the order
    solver = started(SOLVERS[name].shifted(1.0), steps, 3.0)
    noise, clean = torch.randn(2, 1, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    assert len(solver.timesteps) == steps
    # UniPC's first sigma is a thousandth below 1
    latents = solver.sigmas[0] * noise + (1 - solver.sigmas[0]) * clean
    for t in solver.timesteps:
        latents = solver.step(noise - clean, t, latents, return_dict=False)[0]
    assert relative_error(latents, clean) <= 1e-5


@pytest.mark.parametrize(
    "scheduler",
    [flow_unipc(), WanDPMSolverScheduler.shifted(3.0), FlowMatchEulerDiscreteScheduler()],
    ids=lambda s: type(s).__name__,
)
def test_each_segment_starts_from_the_first_step(scheduler: SchedulerMixin) -> None:
    config = dict(scheduler.config)
    solver = with_flow_shift(scheduler, 5.0)
    noise = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    results = []
    for _ in range(2):
        latents = noise
        for t in set_flow_timesteps(solver, 4, "cpu"):
            latents = solver.step(torch.sin(latents), t, latents, return_dict=False)[0]
        results.append(latents)
    assert torch.equal(results[0], results[1])
    assert scheduler.config == config, "the pipeline's own keeps its shift"


def test_another_flow_solver_walks_the_same_sigmas() -> None:
    unipc = started(flow_unipc(), 8, 5.0)
    euler = started(FlowMatchEulerDiscreteScheduler(), 8, 5.0)
    assert torch.allclose(euler.sigmas, unipc.sigmas, atol=1e-6)


def test_euler_walks_the_timesteps_that_distilled_loras_were_trained_at() -> None:
    solver = started(SOLVERS["euler"].shifted(1.0), 4, 5.0)
    assert solver.timesteps.tolist() == pytest.approx([1000, 937.5, 833.3333, 625])
    latents = noise = torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    for step, t in enumerate(solver.timesteps):
        flow = torch.sin(latents).bfloat16()  # as a network gives it
        clean = latents - t / 1000 * flow.float()
        following = [0.9375, 0.833333, 0.625, 0.0][step]
        wanted = latents + (following - t / 1000) * flow.float()
        latents = solver.step(flow, t, latents, return_dict=False)[0]
        assert latents.dtype == torch.float32 and torch.allclose(latents, wanted, atol=1e-5)
        assert torch.allclose(solver.model_outputs[-1], clean, atol=1e-6)
    assert torch.allclose(latents, solver.model_outputs[-1], atol=1e-6), "the last step ends without noise"
    assert not torch.allclose(latents, noise)


def test_sigmas_fall_from_just_below_one() -> None:
    sigmas = flow_sigmas(40)
    assert len(sigmas) == 40
    assert sigmas[0] == pytest.approx(0.999, abs=1e-7)
    assert (sigmas[1:] < sigmas[:-1]).all()
    assert sigmas[-1] > 0
