"""What both video stages share: latents, the flow solver, and the published checkpoints of Wan2.2."""

# diffusers reads a saved pipeline with a scheduler of this package only if the package has SchedulerMixin too
from diffusers import SchedulerMixin

from wanavatar_lab.wan.scheduler import WanDPMSolverScheduler, WanEulerScheduler, WanUniPCScheduler

__all__ = ["SchedulerMixin", "WanDPMSolverScheduler", "WanEulerScheduler", "WanUniPCScheduler"]


def __dir__() -> list[str]:
    return __all__
