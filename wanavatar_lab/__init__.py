"""From a sentence, a picture and a voice to a talking avatar.

    from wanavatar_lab import jobs                      submit a request, watch it, find it again
    from wanavatar_lab.requests import SpeechToVideo    what to ask for
    wanavatar_lab.load("speech_to_video")               the bare diffusers pipeline, in this process
    wanavatar_lab.read_settings("talking.mp4")          how a picture or clip was made

Nothing heavy is imported before it is used.
"""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wanavatar_lab import errors, jobs, media, metrics, pipeline, requests, runs, tools
    from wanavatar_lab.runs.made_with import MadeWith

__all__ = ["errors", "jobs", "load", "media", "metrics", "pipeline", "read_settings", "requests", "runs", "tools"]


def load(stage: str, profile: str = "full", device: str | None = None, offload: str = "auto") -> Any:
    """The diffusers pipeline of a stage, loaded into this process and ready to be called.

    Args:
        stage: text_to_image, image_to_video or speech_to_video.
        profile: which models: full or pocket.
        device: cpu, cuda or cuda:<n>; what the settings say if None.
        offload: as in the request: auto, none, model, fp8 or group; chosen for a request of the usual size. auto does
            not take fp8, since PEFT rounds what `load_lora_weights` puts into layers of 8 bits to 8 bits as well.

    Raises:
        LabError: there is no such stage, profile or pipeline, or its weights are missing.
    """
    from wanavatar_lab.errors import LabError
    from wanavatar_lab.memory import usual_workload
    from wanavatar_lab.profiles import PROFILES
    from wanavatar_lab.stages import stage_module
    from wanavatar_lab.worker.execute import choose_device

    if profile not in PROFILES:
        raise LabError(f"There is no profile {profile!r}; there are {', '.join(PROFILES)}.")
    models = stage_module(stage).load(PROFILES[profile], device or choose_device())
    from wanavatar_lab.memory.apply_offload import OffloadableModels  # imports torch, as the stage has by now

    if not hasattr(models, "pipeline"):
        raise LabError(f"The stage {stage} is no diffusers pipeline; submit a request to it instead.")
    if isinstance(models, OffloadableModels):
        models.excluded_modes = ("fp8",)
        models.apply_offload(offload, usual_workload(stage, profile))
    return models.pipeline


def read_settings(path: Path | str) -> "MadeWith":
    """How a picture or clip was made, from the file alone; `.to_request()` makes it again, given its input files.

    Raises:
        LabError: it cannot be read, or does not say.
    """
    from wanavatar_lab.runs import made_with

    return made_with.read_settings(path)


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    """Import a room when it is first used, as in `wanavatar_lab.jobs`."""
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
