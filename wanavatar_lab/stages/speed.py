"""Save forward passes of a video run, as its request's `speed` or `use_teacache` says.

`speed.toml` has the plans that `python -m wanavatar_lab.bench calibrate` found, by stage, profile and number of steps.
"""

import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import nn

from wanavatar_lab.requests import ImageToVideo, SpeechToVideo
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.wan.scheduler import NUM_TRAIN_TIMESTEPS, SOLVERS, set_flow_timesteps
from wanavatar_lab.wan.step_cache import BOTH, NONE, PROMPT, StepCache, teacache_plan

TABLE = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class SolverSteps:
    """The denoising steps of a run: which network each calls, at which timestep and sigma."""

    networks: list[nn.Module]
    timesteps: list[float]
    sigmas: list[float]

    @classmethod
    def of(cls, request: ImageToVideo | SpeechToVideo, pipeline: Any) -> Self:
        """Those of a request with the networks of its stage's pipeline."""
        shift = request.the_flow_shift() if isinstance(request, SpeechToVideo) else request.flow_shift
        scheduler = SOLVERS[request.sample_solver].shifted(shift)
        timesteps: list[float] = set_flow_timesteps(scheduler, request.num_inference_steps, "cpu").tolist()
        networks = [pipeline.transformer] * len(timesteps)
        if isinstance(request, ImageToVideo):
            boundary = pipeline.config.boundary_ratio * NUM_TRAIN_TIMESTEPS
            low = pipeline.transformer_2
            networks = [
                low if timestep < boundary else high for high, timestep in zip(networks, timesteps, strict=True)
            ]
        return cls(networks, timesteps, scheduler.sigmas[: len(timesteps)].tolist())


@contextmanager
def saved_passes(request: ImageToVideo | SpeechToVideo, pipeline: Any, context: StageContext) -> Iterator[None]:
    """Let a stage's networks leave out passes until the block ends; then log and record how many.

    Args:
        request: of the run.
        pipeline: of the stage.
        context: of the run.
    """
    if request.speed == "exact" and not request.use_teacache:
        yield
        return
    steps = SolverSteps.of(request, pipeline)
    if request.use_teacache:
        name, facts = "TeaCache", {"method": "teacache", "threshold": request.teacache_thresh}
        plan = teacache_plan(steps.networks, steps.timesteps, request.teacache_thresh)
    else:
        asked = f"{request.profile}, {len(steps.sigmas)} steps"
        plan, found_for = plan_for(request.stage, request.profile, len(steps.sigmas), request.speed)
        name, facts = f"Speed {request.speed}", {"method": request.speed, "calibrated_for": found_for}
        if found_for != asked:
            context.log(
                f"{name} was not calibrated for {asked}: what was found for {found_for} is used, and how far this clip "
                f"is from an exact one is not known. python -m wanavatar_lab.bench calibrate "
                f"{request.stage.replace('_', '-')} --profile {request.profile} --steps {len(steps.sigmas)} finds out."
            )
    cache = StepCache(context.ranks.agreed(plan), steps.sigmas)
    try:
        with cache.on(*dict.fromkeys(steps.networks)):
            yield
    finally:
        passes = cache.computed + cache.predicted
        context.record(speed={**facts, "plan": plan, "passes": passes, "computed": cache.computed})
        if passes:
            context.log(
                f"{name}: of {passes} forward passes {cache.computed} were computed and {cache.predicted} predicted, "
                f"{passes / cache.computed:.2f} times fewer than exactly."
            )


def plan_for(stage: str, profile: str, steps: int, speed: str, table: Path = TABLE) -> tuple[str, str]:
    """The plan of a speed, and for which profile and number of steps it was found.

    Where there is none, that of the same profile with the nearest number of steps is stretched, else of any profile.
    """
    entries = tomllib.loads(table.read_text(encoding="utf-8"))[stage]
    entry = min(entries, key=lambda each: (each["profile"] != profile, abs(each["steps"] - steps)))
    return stretched(entry[speed], steps), f"{entry['profile']}, {entry['steps']} steps"


def stretched(plan: str, steps: int) -> str:
    """A plan for another number of steps, with about the same share of computed passes at the same places."""
    if steps == len(plan):
        return plan
    wanted, places = [NONE] * steps, list(range(steps))
    for level in (PROMPT, BOTH):
        computed = [step for step, digit in enumerate(plan) if digit >= level]
        count = max(min(2, steps), round(len(computed) * steps / len(plan)))
        among = np.interp(np.linspace(0, len(computed) - 1, count), range(len(computed)), computed)
        # the guidance is computed where the prompt is
        places = [min(places, key=lambda place: abs(place - at)) for at in among * (steps - 1) / (len(plan) - 1)]
        for place in places:
            wanted[place] = level
    return "".join(wanted)
