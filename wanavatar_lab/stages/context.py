"""What a stage is given beside its request and its models: where to write, how to report, when to stop."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import Cancelled
from wanavatar_lab.files import report_write_errors
from wanavatar_lab.memory import Choice


@dataclass(frozen=True)
class Step:
    """One report of a stage: `step` of `steps` of `phase` is done, in `segment` of `segments` (from 1)."""

    phase: str
    step: int
    steps: int
    segment: int | None = None
    segments: int | None = None


@dataclass
class StageContext:
    """A stage's side of a run.

    Attributes:
        folder: the run's folder. Write artifacts there through `wanavatar_lab.files.whole_file` or the writers of
            `wanavatar_lab.media`; names that begin with a dot are scratch and are removed when the run ends.
        seed: the seed to use, already drawn where the request left it open.
        on_step: called with every report.
        facts: what `record` has collected.
    """

    folder: Path
    seed: int
    on_step: Callable[[Step], None] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def progress(
        self, phase: str, step: int, steps: int, *, segment: int | None = None, segments: int | None = None
    ) -> None:
        """Report that `step` of `steps` of a phase are done; 0 says that the phase begins.

        The run's fraction follows the phases that count more than one step.

        Raises:
            DiskFull: the status finds no room, so neither would the artifact.
        """
        if self.on_step is not None:
            self.on_step(Step(phase, step, steps, segment, segments))

    def cancelled(self) -> bool:
        """Whether the user has asked for the run to end; costs one look at the disk."""
        return (self.folder / "cancel").exists()

    def check(self) -> None:
        """Call this at least once per denoising step.

        Raises:
            Cancelled: the user has asked for the run to end. Let it through.
        """
        if self.cancelled():
            raise Cancelled

    def log(self, text: str) -> None:
        """Add a line to the run's log.

        Raises:
            DiskFull: there is no room.
        """
        path = self.folder / "log.txt"
        with report_write_errors(path), open(path, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    def say_placement(self, choice: Choice) -> None:
        """Log and record who is on the GPU; nothing where the CPU computes."""
        if choice.peak_gpu_bytes is not None:
            self.log(f"Offload {choice.key}: {choice.reason}")
            self.record(offload=choice.key, vae_tiled=choice.tiled)

    def record(self, **facts: Any) -> None:
        """Add facts to the manifest: hashes of models, measured values. They must be representable as JSON."""
        self.facts.update(facts)
