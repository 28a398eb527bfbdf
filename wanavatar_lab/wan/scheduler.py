"""The flow solver of the reference: diffusers' UniPC on the sigmas that Wan uses."""

from typing import Any

import numpy as np
import torch

# a pipeline that was saved with our scheduler is read again only if this module has SchedulerMixin too
from diffusers import SchedulerMixin as SchedulerMixin
from diffusers import UniPCMultistepScheduler

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
    """The unshifted sigmas [num_inference_steps] from 0.999 towards 0, the last 0 left out.

    diffusers' own start at 1, which shifts every integer timestep a little. The first value passes through float32
    because the reference's does: the timesteps are truncated to integers, and a hair decides.
    """
    largest = float(np.float32(1 - 1 / NUM_TRAIN_TIMESTEPS))
    return np.linspace(largest, 0.0, num_inference_steps + 1)[:-1]


class WanUniPCScheduler(UniPCMultistepScheduler):
    """UniPC on Wan's sigmas, for diffusers' pipelines, which only say how many steps they want."""

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        sigmas: Any = None,
        mu: Any = None,
    ) -> None:
        """As the base class, but that a number of steps means `flow_sigmas` of it."""
        if sigmas is None and num_inference_steps is not None:
            sigmas = flow_sigmas(num_inference_steps)
        super().set_timesteps(device=device, sigmas=sigmas, mu=mu)
        # with the index known from the start no step waits for the device to compare timesteps
        self.set_begin_index(0)

    @classmethod
    def shifted(cls, flow_shift: float) -> "WanUniPCScheduler":
        """Configured as `flow_unipc` is."""
        return cls.from_config(flow_unipc(flow_shift).config)
