"""The status of a run, status.json: one small file that is replaced whole, so that it can be read at any time.

States: queued → running → succeeded, failed or cancelled; a queued run can also fail or be cancelled directly.
Phases: start, load and run, which are the same for every stage, then the stage's own: encode, denoise, decode, ...
"""

import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr

from wanavatar_lab.errors import LabError

__all__ = ["PARTIAL", "Artifact", "Status", "main_artifact"]

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]

STARTING = "start"  # phase: the worker process starts and imports
LOADING = "load"  # phase: models are loaded
RUNNING = "run"  # phase: the stage has begun, and has not reported a phase of its own yet

PARTIAL = "partial"

# up to the end of the year 9999, the last that datetime can represent
Seconds = Annotated[float, Field(ge=0, le=253402300799)]


class Artifact(BaseModel):
    """A file that a run made. A stage makes it as `Artifact(kind="picture", path="picture.png")`.

    Attributes:
        kind: what it is: picture, video, talking, audio, ...
        file: relative to the run's folder, with `/`; `path` where it is made, and in JSON.
        role: which of several it is, where a stage makes more than one; `PARTIAL` for what was finished of a video
            when its run ended early.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)

    kind: str
    file: str = Field(alias="path")
    role: str = ""
    _folder: Path | None = PrivateAttr(None)  # of the run; never in JSON, so that a run's folder can be moved

    @property
    def path(self) -> str:
        """The file, absolute once it is read from a run; as the stage gave it before."""
        return self.file if self._folder is None else os.path.join(self._folder, self.file)

    def __fspath__(self) -> str:
        """The path, for `open`, `Path`, and a request that takes the file as its input."""
        return self.path

    def within(self, folder: Path) -> "Artifact":
        """The same, of the run in this folder."""
        placed = self.model_copy()
        placed._folder = folder.absolute()
        return placed

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        return [("kind", self.kind), ("path", self.path), *([("role", self.role)] if self.role else [])]

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """The picture or a player, as far as a notebook shows it."""
        from wanavatar_lab.runs.display import artifact_html

        return {"text/plain": repr(self), "text/html": artifact_html(self)}


def main_artifact(artifacts: Sequence[Artifact], kind: str) -> Artifact:
    """The main result of a stage: the first artifact of that kind, or the first of all where `kind` is empty.

    Raises:
        LabError: there is none.
    """
    for artifact in artifacts:
        if kind in ("", artifact.kind):
            return artifact
    made = ", ".join(artifact.file for artifact in artifacts) or "nothing"
    raise LabError(f"The run succeeded and should have made a {kind or 'file'}, but made {made}.")


class Status(BaseModel):
    """The progress of a run. Times are seconds since 1970, durations seconds, sizes bytes."""

    # a newer release may write fields that this one does not know
    model_config = ConfigDict(frozen=True, extra="ignore")

    state: State = "queued"
    message: str = Field(default="", description="one line for people: what happens now, or how it ended")
    error: str | None = Field(default=None, description="why it failed and what to do; only when state is failed")
    phase: str = Field(default="", description="start, load, run, then the stage's own: denoise, decode, ...")
    step: int | None = None
    steps: int | None = None
    segment: int | None = None
    segments: int | None = None
    fraction: float = Field(default=0.0, ge=0.0, le=1.0, description="of the whole run; never decreases")
    eta_seconds: Seconds | None = Field(default=None, description="from the measured time of the last steps")
    memory_bytes: int | None = Field(default=None, description="peak of the GPU if it is used, else of the process")
    seed: int | None = Field(default=None, description="the seed that is used")
    node: str | None = Field(default=None, description="the node of a cluster that executes it")
    retried: str | None = Field(default=None, description="why it began again: what was lost the first time")
    queue_place: int | None = Field(default=None, description="1 = next; only when state is queued")
    queue_paused: bool = Field(default=False, description="no run may start; only when state is queued")
    submitted_at: Seconds | None = None
    started_at: Seconds | None = None
    finished_at: Seconds | None = None
    artifacts: list[Artifact] = Field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state not in ("queued", "running")

    def within(self, folder: Path) -> "Status":
        """The same, of the run in this folder: the paths of its artifacts are absolute."""
        return self.model_copy(update={"artifacts": [artifact.within(folder) for artifact in self.artifacts]})

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """The state, a bar, and what was made."""
        from wanavatar_lab.runs.display import artifacts_html, status_html, status_text

        return {"text/plain": status_text(self), "text/html": status_html(self) + artifacts_html(self)}

    def started(self) -> "Status":
        """The first status of a run that is executed from now on."""
        return self.model_copy(
            update={"state": "running", "phase": STARTING, "message": STARTING, "started_at": time.time()}
        )


def __dir__() -> list[str]:
    return __all__
