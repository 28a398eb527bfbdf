"""Passes of a denoising network that are predicted from earlier steps instead of computed.

A flow changes slowly from step to step, and the difference that guidance makes is a small part of it. Both are
extrapolated in the logarithm of noise to signal, along the line through the last two steps that were computed, which
needs no access to the inside of a network: the same hook serves both experts of image to video and the network of
speech to video.

How many passes each step computes is a plan, a digit per step: 2 both, 1 that of the prompt, with the guidance
predicted, and 0 none. The plan is known before a run, so that no step waits for the GPU to decide, nothing can
accumulate across segments, and processes that share a sequence decide alike. Plans come from a calibration
(`wanavatar_lab.bench.calibrate`) or from TeaCache's measure.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.hooks import HookRegistry, ModelHook
from diffusers.hooks.hooks import BaseState, StateManager
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from torch import Tensor, nn

BOTH, PROMPT, NONE = "2", "1", "0"
_HOOK = "wanavatar_step_cache"
# makes the logarithm finite. Larger values come nearer to a line in sigma, and clips of the pocket model farther from
# the exact one: 12 of 16 passes are at 39.5 dB with 0.001, 37.6 with 0.01, 31.5 with 0.1 and 28.3 in sigma, since the
# first steps, from whose errors all others go on, change little
_SOFTENED = 0.001


class StepCache:
    """The plan of a run and what came of it.

    Args:
        plan: a digit per denoising step.
        sigmas: the noise before each step.

    Attributes:
        computed, predicted: forward passes so far.
        step: the running one.
    """

    def __init__(self, plan: str, sigmas: Sequence[float]) -> None:
        if len(plan) != len(sigmas) or set(plan) - {BOTH, PROMPT, NONE}:
            raise ValueError(f"The plan is {plan!r}; need {len(sigmas)} digits, each 0, 1 or 2.")
        self.plan, self.sigmas = plan, sigmas
        self.computed = self.predicted = 0
        self.step = -1

    @contextmanager
    def on(self, *networks: nn.Module) -> Iterator["StepCache"]:
        """Let these networks of one pipeline follow the plan until the block ends.

        They are called in a `cache_context` named "cond" or "uncond", the first of each step "cond", with
        `return_dict=False`, as diffusers' Wan pipelines and `s2v.pipeline.denoise_segment` do.
        """
        for network in networks:
            HookRegistry.check_if_exists_or_initialize(network).register_hook(_PredictHook(self), _HOOK)
        try:
            yield self
        finally:
            for network in networks:
                HookRegistry.check_if_exists_or_initialize(network).remove_hook(_HOOK, recurse=False)


class _PredictHook(ModelHook):
    """Calls a network, or predicts what it would return. diffusers resets it where a segment begins or ends."""

    _is_stateful = True

    def __init__(self, cache: StepCache) -> None:
        super().__init__()
        self._cache = cache
        self.contexts = StateManager(BaseState)  # diffusers looks for it among the attributes, to say which pass runs
        self._past: dict[str, list[tuple[float, Tensor]]] = {}  # sigma, and the flow or the difference of guidance
        self._flow = torch.empty(0)  # of the prompt, in this step
        self._dtype = torch.float32  # in which the network returns it

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The network's output as a tuple of one tensor, in the dtype that it computes."""
        cache, context = self._cache, self.contexts.context
        guided = context.name == "cond"
        if guided:
            cache.step = cache.step + 1 if context.step_index is None else context.step_index
        past = self._past.setdefault(context.name, [])
        # a network that has just taken over, or whose adapters have changed, has nothing to predict from
        if not past or cache.plan[cache.step] >= (PROMPT if guided else BOTH):
            cache.computed += 1
            output = self.fn_ref.original_forward(*args, **kwargs)
            sample = output[0]
            value = sample.float() if guided else self._flow - sample.float()
            past[:] = [*past[-1:], (cache.sigmas[cache.step], value)]
        else:
            cache.predicted += 1
            value = extrapolated(past, cache.sigmas[cache.step])
            sample = (value if guided else self._flow - value).to(self._dtype)
            output = (sample,) if kwargs.get("return_dict") is False else Transformer2DModelOutput(sample=sample)
        if guided:
            self._flow, self._dtype = sample.float(), sample.dtype
        return output

    def reset_state(self, module: nn.Module) -> nn.Module:
        """Forget the steps of this segment."""
        self._past.clear()
        self._flow = torch.empty(0)
        self._cache.step = -1
        self.contexts.reset()
        return module


def extrapolated(past: Sequence[tuple[float, Any]], sigma: float) -> Any:
    """The value at `sigma` on the line through the last two of `past`, pairs with a sigma; a single one is kept."""
    before, value = past[-1]
    if len(past) == 1:
        return value
    earlier, other = past[-2]
    start, end, wanted = (_noise_to_signal(each) for each in (earlier, before, sigma))
    return value + (value - other) * ((wanted - end) / (end - start))


def _noise_to_signal(sigma: float) -> float:
    """The logarithm of noise to signal, kept from going beyond all bounds for latents that are noise alone."""
    return math.log((sigma + _SOFTENED) / (1 - sigma + _SOFTENED))


@torch.no_grad()
def teacache_plan(networks: Sequence[nn.Module], timesteps: Sequence[float], threshold: float) -> str:
    """The plan of TeaCache (https://huggingface.co/papers/2411.19108) without rescaling.

    A step is left out while the relative changes of the time modulation since the last computed step add up to less
    than the threshold. The first and the last step are computed, and the first of each network.

    Args:
        networks: of each step, diffusers' Wan or ours: both modulate by `condition_embedder`.
        timesteps: of each step, 0 to 1000.
        threshold: above 0.
    """
    modulations = [_modulation(network, timestep) for network, timestep in zip(networks, timesteps, strict=True)]
    plan, changes = BOTH, 0.0
    for step in range(1, len(timesteps)):
        before, now = modulations[step - 1 : step + 1]
        changes += float((now - before).abs().mean() / before.abs().mean())
        takes_over = networks[step] is not networks[step - 1]
        computed = takes_over or changes >= threshold or step + 1 == len(timesteps)
        plan += BOTH if computed else NONE
        changes = 0.0 if computed else changes
    return plan


def _modulation(network: Any, timestep: float) -> Tensor:
    embedder = network.condition_embedder
    weight = embedder.time_embedder.linear_1.weight
    wave = embedder.timesteps_proj(torch.tensor([timestep], device=weight.device)).to(weight.dtype)
    # two dtypes: the embedder computes in float32, and the projection in the network's
    embedded = embedder.act_fn(embedder.time_embedder(wave)).to(embedder.time_proj.weight.dtype)
    projected: Tensor = embedder.time_proj(embedded).float()
    return projected
