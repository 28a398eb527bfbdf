"""Every tool as a stage: its function writes into the run's folder."""

from dataclasses import asdict
from typing import Any

from wanavatar_lab import tools
from wanavatar_lab.errors import cancellable
from wanavatar_lab.media import probe
from wanavatar_lab.profiles import Profile
from wanavatar_lab.requests import Tool
from wanavatar_lab.runs.status import Artifact
from wanavatar_lab.stages.context import StageContext

FILES = {".wav": "audio.wav", ".png": "frame.png", ".mp4": "clip.mp4"}


def load(profile: Profile, device: str) -> None:
    """No models."""


def run(request: Tool, models: Any, context: StageContext) -> list[Artifact]:
    """Do the work of a tool, and record what its result is.

    Args:
        models: further arguments of the tool's function, such as the models that it uses; None without any.

    Raises:
        MediaError: a file cannot be read or written.
        LabError: what the tool refuses.
        Cancelled: the run was cancelled.
    """
    suffix = request.suffix
    if not suffix:  # as what it is given
        suffix = ".mp4" if probe(next(iter(request.input_files().values()))).moves else ".wav"
    path = context.folder / FILES[suffix]
    with cancellable(context.check):
        made = getattr(tools, request.stage)(
            **request.arguments(),
            **(models or {}),
            out=path,
            metadata=context.metadata(request, {}),
            progress=lambda done, all_of_them: context.progress("work", done, all_of_them),
        )
    context.record(**asdict(made))
    info = probe(path)
    # clips with sound count as talking ones, which are offered wherever a voice can be chosen
    kind = "talking" if info.kind == "video" and info.audio_rate else info.kind
    return [Artifact(kind=kind, path=path.name)]
