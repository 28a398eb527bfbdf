"""The flow solvers: the reference's UniPC and DPM-Solver++ on the sigmas that Wan uses, and distilled LoRAs' Euler."""

import inspect
from typing import Any

import numpy as np
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)

NUM_TRAIN_TIMESTEPS = 1000


def flow_unipc(flow_shift: float = 3.0) -> UniPCMultistepScheduler:
    """UniPC (order 2, bh2) for flow matching, as the reference configures it."""
    return UniPCMultistepScheduler(
        num_train_timesteps=NUM_TRAIN_TIMESTEPS,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=flow_shift,
    )


def flow_sigmas(num_inference_steps: int) -> np.ndarray:
    """The unshifted sigmas [num_inference_steps] from 0.999 towards 0, without the last 0.

    diffusers' own start at 1, which shifts every integer timestep a little. The first value passes through float32
    because the reference's does: timesteps are truncated to integers, where the last digit decides.
    """
    largest = float(np.float32(1 - 1 / NUM_TRAIN_TIMESTEPS))
    return np.linspace(largest, 0.0, num_inference_steps + 1)[:-1]


def with_flow_shift(scheduler: SchedulerMixin, flow_shift: float) -> SchedulerMixin:
    """A new flow solver of the same kind and config, with another shift of the sigmas."""
    name = "flow_shift" if "flow_shift" in scheduler.config else "shift"
    return type(scheduler).from_config(scheduler.config, **{name: flow_shift})


def set_flow_timesteps(scheduler: SchedulerMixin, num_inference_steps: int, device: str | torch.device) -> torch.Tensor:
    """Start a flow solver from its first step, on Wan's sigmas where it takes sigmas; returns its timesteps."""
    if "sigmas" in inspect.signature(scheduler.set_timesteps).parameters:
        scheduler.set_timesteps(sigmas=flow_sigmas(num_inference_steps), device=device)
    else:
        scheduler.set_timesteps(num_inference_steps, device=device)
    # with the index set, no step waits for the device to find its timestep among all of them
    scheduler.set_begin_index(0)
    return scheduler.timesteps


class WanUniPCScheduler(UniPCMultistepScheduler):
    """UniPC on Wan's sigmas, for diffusers' pipelines, which only pass a number of steps."""

    # what a saved pipeline names: of `wanavatar_lab.wan.scheduler` diffusers would keep `wan`, a package of its own
    __module__ = "wanavatar_lab.wan"

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, sigmas: Any = None, mu: Any = None
    ) -> None:
        """As the base class, but a number of steps means `flow_sigmas` of it."""
        if sigmas is None and num_inference_steps is not None:
            sigmas = flow_sigmas(num_inference_steps)
        super().set_timesteps(device=device, sigmas=sigmas, mu=mu)
        self.set_begin_index(0)

    @classmethod
    def shifted(cls, flow_shift: float) -> "WanUniPCScheduler":
        """Configured as `flow_unipc` is."""
        return cls.from_config(flow_unipc(flow_shift).config)


class WanDPMSolverScheduler(DPMSolverMultistepScheduler):
    """DPM-Solver++ (order 2, midpoint) on the sigmas of `get_sampling_sigmas` in wan/utils/fm_solvers.py.

    They start at 1, where UniPC's start at 0.999 and diffusers' own for this solver too.
    """

    __module__ = "wanavatar_lab.wan"  # as for `WanUniPCScheduler`

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """As the base class, on other sigmas: equally spaced from 1 towards 0, then shifted."""
        super().set_timesteps(num_inference_steps, device)
        shift, sigmas = self.config.flow_shift, np.linspace(1, 0, num_inference_steps + 1)
        sigmas = shift * sigmas / (1 + (shift - 1) * sigmas)
        self.sigmas = torch.from_numpy(sigmas.astype(np.float32))
        self.timesteps = torch.from_numpy(sigmas[:-1] * NUM_TRAIN_TIMESTEPS).to(device, torch.int64)
        self.set_begin_index(0)

    @classmethod
    def shifted(cls, flow_shift: float) -> "WanDPMSolverScheduler":
        """Configured as the reference configures it."""
        return cls(
            num_train_timesteps=NUM_TRAIN_TIMESTEPS,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=flow_shift,
        )


class WanEulerScheduler(FlowMatchEulerDiscreteScheduler):
    """Euler's method on sigmas equally spaced from 1 towards 0, then shifted.

    Distilled networks are trained at the few timesteps of such a schedule, and not at those between: lightx2v's at
    1000, 937.5, 833.3 and 625, which are 4 steps with shift 5.

    Attributes:
        model_outputs: what the last step predicted without noise, as the other solvers keep it.
    """

    __module__ = "wanavatar_lab.wan"  # as for `WanUniPCScheduler`
    sigmas: torch.Tensor
    model_outputs: list[torch.Tensor]

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """As the base class, whose own sigmas end above 0 before the last step."""
        super().set_timesteps(sigmas=np.linspace(1, 0, num_inference_steps + 1)[:-1].tolist(), device=device)
        self.sigmas = self.sigmas.cpu()  # or each step would wait for the device to tell its sigma
        self.model_outputs = []
        self.set_begin_index(0)

    def step(self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, **options: Any) -> Any:
        """As the base class, which would return latents in the network's dtype, that of `model_output`."""
        model_output, sample = model_output.float(), sample.float()
        index = self.begin_index if self.step_index is None else self.step_index
        self.model_outputs = [sample - self.sigmas[index] * model_output]
        return super().step(model_output, timestep, sample, **options)

    @classmethod
    def shifted(cls, flow_shift: float) -> "WanEulerScheduler":
        """With this shift of the sigmas, at every size."""
        return cls(num_train_timesteps=NUM_TRAIN_TIMESTEPS, shift=flow_shift)


# by the value of a request's sample_solver
SOLVERS: dict[str, type[WanUniPCScheduler] | type[WanDPMSolverScheduler] | type[WanEulerScheduler]] = {
    "unipc": WanUniPCScheduler,
    "dpm++": WanDPMSolverScheduler,
    "euler": WanEulerScheduler,
}
