"""What a run says about itself: one small JSON that is replaced whole, so that anyone can read it at any time."""

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from wanavatar_lab.errors import LabError

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]

ENDED: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})

# the phases before a stage's own: the worker's process starts, the models load
STARTING = "start"
LOADING = "load"


class Artifact(BaseModel):
    """A file that a run made.

    Attributes:
        kind: what it is: picture, video, talking, audio, ...
        path: where it lies, relative to the run's folder, with `/`.
        role: which of several it is, where a stage makes more than one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    path: str
    role: str = ""


def main_artifact(artifacts: Sequence[Artifact], kind: str) -> Artifact:
    """The file that a stage is for: the first of its kind, or the first of all where `kind` is empty.

    Raises:
        LabError: there is none.
    """
    for artifact in artifacts:
        if kind in ("", artifact.kind):
            return artifact
    made = ", ".join(artifact.path for artifact in artifacts) or "nothing"
    raise LabError(f"The run succeeded and should have made a {kind or 'file'}, but made {made}.")


class Status(BaseModel):
    """How far a run is. Times are seconds since 1970, durations seconds, sizes bytes."""

    # a newer release may say more than this one reads
    model_config = ConfigDict(frozen=True, extra="ignore")

    state: State = "queued"
    message: str = Field(default="", description="one line for people: what happens now, or how it ended")
    error: str | None = Field(default=None, description="why it failed and what to do; only when state is failed")
    phase: str = Field(default="", description="start, load, then the stage's own: denoise, decode, ...")
    step: int | None = None
    steps: int | None = None
    segment: int | None = None
    segments: int | None = None
    fraction: float = Field(default=0.0, ge=0.0, le=1.0, description="of the whole run; never goes back")
    eta_seconds: float | None = Field(default=None, description="from the measured time of the last steps")
    memory_bytes: int | None = Field(
        default=None, description="peak: of the GPU where one is used, else of the process"
    )
    seed: int | None = Field(default=None, description="the seed really used")
    queue_place: int | None = Field(default=None, description="1 = next; only when state is queued")
    submitted_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    artifacts: list[Artifact] = Field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ENDED
