"""Where runs are executed: what the supervisor asks of an engine, and of the workers that it starts.

`local_engine` is this machine, `ray_engine` a cluster; `WANAVATAR_ENGINE` says which, for each run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from wanavatar_lab.profiles import Profile
from wanavatar_lab.runs.run import Run
from wanavatar_lab.settings import Settings


class EngineWorker(Protocol):
    """What executes runs, one after the other, from its start until it is killed."""

    @property
    def pid(self) -> int:
        """A process of this machine that is killed, with its process group, where the supervisor is dead."""

    def give(self, run_id: str, gpus: int = 0) -> None:
        """Have it execute a run, on so many GPUs; 0 for as many as it sees. If it is dead, `news` will say so."""

    def news(self, seconds: float) -> Literal["done", "died"] | None:
        """Wait at most `seconds` for the end of the run that it was given, or its own."""

    def is_alive(self) -> bool:
        """Whether it can take a run."""

    def kill(self) -> int:
        """Kill it and all that it started, now; returns its return code."""


@dataclass(eq=False)
class Place:
    """Where one run at a time is executed.

    Attributes:
        settings: what its worker gets, or was given.
        gpus: that its worker sees, its own first, as CUDA_VISIBLE_DEVICES names them; empty where they are not chosen.
        uses: those of them that its run has, or the last one had, so that its models may be there.
        worker: None until it is needed.
        run: that the worker executes.
        grace: seconds that the run, once it is cancelled, has to end by itself.
        deadline: when a run that is cancelled gets no more time to end by itself, in seconds of `time.monotonic`.
        engine: that chose it, as the settings name it.
    """

    settings: dict[str, str]
    gpus: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    worker: EngineWorker | None = None
    run: Run | None = None
    grace: float = 0.0
    deadline: float | None = None
    engine: str = "local"


class Engine(Protocol):
    """Chooses a place for each run, and starts the workers."""

    def choose(
        self, settings: Settings, profile: Profile, places: Sequence[Place], *, others: bool
    ) -> tuple[Place, tuple[str, ...]] | None:
        """The place of the next run, one that is idle or a new one, and its GPUs; None while it has to wait.

        Args:
            settings: of the run.
            profile: of its request.
            places: all there are of this engine.
            others: whether more runs wait behind it.
        """

    def start(self, place: Place, runs_dir: Path) -> EngineWorker:
        """The worker of a place that has none."""

    def close(self) -> None:
        """End what is left when the workers are killed."""


def engine_of(name: str, runs_dir: Path) -> Engine:
    """The engine that the settings name."""
    # not at the top: clients, which only start supervisors, need none of them
    if name == "local":
        from wanavatar_lab.worker.local_engine import LocalEngine

        return LocalEngine()
    from wanavatar_lab.worker.ray_engine import RayEngine

    return RayEngine("auto" if name == "ray" else name, runs_dir)
