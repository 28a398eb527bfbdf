"""Passes that are predicted: exact where the flow is a line, none where the plan computes, gone afterwards."""

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from diffusers.models.cache_utils import CacheMixin
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.s2v.toy import toy_model
from wanavatar_lab.wan.step_cache import StepCache, extrapolated, teacache_plan
from wanavatar_lab.wan.step_cache import _modulation as modulation

SIGMAS = [1.0, 0.9, 0.75, 0.5, 0.3]


def noise_to_signal(sigma: float) -> float:
    return math.log((sigma + 0.001) / (1.001 - sigma))


class Line(nn.Module, CacheMixin):
    """Returns a line in the logarithm of noise to signal, another one for each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, float]] = []

    def forward(self, sigma: float, name: str, return_dict: bool = True) -> tuple[Tensor]:
        self.calls.append((name, sigma))
        slope = torch.tensor([1.0, -2.0]) if name == "cond" else torch.tensor([0.5, 3.0])
        return (1 + slope * noise_to_signal(sigma),)


def denoise(network: Any, steps: int = len(SIGMAS), guided: bool = True) -> list[Tensor]:
    network._reset_stateful_cache()
    made = []
    for sigma in SIGMAS[:steps]:
        for name in ("cond", "uncond")[: 1 + guided]:
            with network.cache_context(name):
                made.append(network(sigma=sigma, name=name, return_dict=False)[0])
    return made


@pytest.mark.parametrize(("plan", "computed"), [("22222", 10), ("22000", 4), ("22101", 6), ("22120", 7)])
def test_what_changes_along_a_line_is_predicted_exactly(plan: str, computed: int) -> None:
    network = Line()
    exact = denoise(network)
    network.calls.clear()
    cache = StepCache(plan, SIGMAS)
    with cache.on(network):
        found = denoise(network)
    assert torch.allclose(torch.stack(found), torch.stack(exact), atol=1e-6)
    assert (cache.computed, cache.predicted) == (computed, 10 - computed) == (len(network.calls), 10 - computed)
    wanted = [
        (name, sigma) for digit, sigma in zip(plan, SIGMAS, strict=True) for name in ("cond", "uncond")[: int(digit)]
    ]
    assert network.calls == wanted


def test_a_segment_knows_nothing_of_the_one_before_and_its_first_step_is_computed() -> None:
    network, cache = Line(), StepCache("00002", SIGMAS)
    with cache.on(network):
        first, second = denoise(network), denoise(network)
        assert network.calls == [(name, sigma) for sigma in (SIGMAS[0], SIGMAS[-1]) for name in ("cond", "uncond")] * 2
    assert torch.equal(torch.stack(first), torch.stack(second))
    # between them each pass keeps its own first value: one point is no line
    assert torch.equal(first[2], first[0]) and torch.allclose(first[3], first[1])


def test_nothing_is_left_behind_where_a_run_ends_early() -> None:
    network = Line()
    with pytest.raises(KeyError), StepCache("20002", SIGMAS).on(network):
        denoise(network, steps=2)
        raise KeyError
    network.calls.clear()
    denoise(network, guided=False)
    assert network.calls == [("cond", sigma) for sigma in SIGMAS]


def test_without_guidance_there_is_one_pass_a_step() -> None:
    network, cache = Line(), StepCache("22011", SIGMAS)
    with cache.on(network):
        denoise(network, guided=False)
    assert (cache.computed, cache.predicted) == (4, 1)


def test_the_dtype_is_the_networks() -> None:
    class Half(Line):
        def forward(self, **given: Any) -> tuple[Tensor]:  # type: ignore[override]
            return (super().forward(**given)[0].bfloat16(),)

    network = Half()
    with StepCache("20002", SIGMAS).on(network):
        assert {made.dtype for made in denoise(network)} == {torch.bfloat16}


@pytest.mark.parametrize("plan", ["2222", "222222", "22322", "2 222"])
def test_a_plan_needs_a_digit_for_each_step(plan: str) -> None:
    with pytest.raises(ValueError, match=rf"The plan is '{plan}'; need 5 digits, each 0, 1 or 2"):
        StepCache(plan, SIGMAS)


def test_a_line_through_the_last_two_points() -> None:
    # noise to signal is about 9, 1 and 1/9
    assert extrapolated([(1.0, 50.0), (0.9, 3.0), (0.5, 2.0)], 0.1) == pytest.approx(1.0)
    assert extrapolated([(1.0, 50.0), (0.9, 3.0)], 0.5) == pytest.approx(-18.8, abs=0.1), "noise alone is finite"
    assert extrapolated([(1.0, 3.0)], 0.25) == 3.0


@settings(max_examples=25, deadline=None)
@given(threshold=st.floats(1e-4, 3.0), steps=st.integers(2, 40), boundary=st.integers(1, 39))
def test_teacache_leaves_out_steps_while_the_changes_add_up_to_less(
    threshold: float, steps: int, boundary: int
) -> None:
    high, low = NETWORKS
    timesteps = [1000 * (1 - step / steps) for step in range(steps)]
    networks = [high if step < boundary else low for step in range(steps)]
    plan = teacache_plan(networks, timesteps, threshold)
    assert len(plan) == steps and set(plan) <= {"0", "2"} and plan[0] == plan[-1] == "2"
    assert boundary >= steps or plan[boundary] == "2", "a network that takes over has nothing to go by"
    times = [modulation(network, timestep) for network, timestep in zip(networks, timesteps, strict=True)]
    changes = [0.0, *(float((b - a).abs().mean() / a.abs().mean()) for a, b in pairwise(times))]
    since = 0.0
    for step in range(1, steps):
        since += changes[step]
        assert plan[step] == "2" or since < threshold, "no sum may stay behind a computed step"
        if step not in (boundary, steps - 1):
            assert (plan[step] == "2") == (since >= threshold)
        since = 0.0 if plan[step] == "2" else since


NETWORKS = [toy_model(seed).requires_grad_(False) for seed in range(2)]


def test_a_larger_threshold_computes_fewer_steps() -> None:
    timesteps = [1000 - 40 * step for step in range(25)]
    counts = [
        teacache_plan([NETWORKS[0]] * 25, timesteps, threshold).count("2") for threshold in (1e-6, 0.15, 0.5, 1e6)
    ]
    assert counts[0] == 25 and counts[-1] == 2 and counts == sorted(counts, reverse=True)
