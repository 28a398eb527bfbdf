"""What a stage gets beside its request and its models: the run's folder and seed, progress, cancellation and log."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import Cancelled
from wanavatar_lab.files import report_write_errors
from wanavatar_lab.memory import Choice
from wanavatar_lab.requests import ImageToVideo, TextToImage

LOOK_EVERY = 0.05  # seconds: blocks of a toy network take microseconds, and a look at a network disk milliseconds


@dataclass(frozen=True)
class Step:
    """Progress of a stage: `step` of `steps` of `phase` is done, in `segment` of `segments` (from 1)."""

    phase: str
    step: int
    steps: int
    segment: int | None = None
    segments: int | None = None


@dataclass
class StageContext:
    """The run that a stage works for.

    Attributes:
        folder: the run's folder. Write artifacts there through `wanavatar_lab.files.whole_file` or the writers of
            `wanavatar_lab.media`; names that begin with a dot are temporary and are removed when the run finishes.
        seed: the seed to use; drawn at random if the request has none.
        on_step: called with every `progress`.
        facts: the values that `record` has collected.
    """

    folder: Path
    seed: int
    on_step: Callable[[Step], None] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def progress(
        self, phase: str, step: int, steps: int, *, segment: int | None = None, segments: int | None = None
    ) -> None:
        """Report that `step` of `steps` of a phase are done; 0 when the phase begins.

        Only phases of more than one step move the run's progress bar.

        Raises:
            DiskFull: there is no room for the status, and so none for the artifact.
        """
        if self.on_step is not None:
            self.on_step(Step(phase, step, steps, segment, segments))

    def check(self) -> None:
        """Stop if the run was cancelled; costs one look at the disk. To be called at least once per denoising step.

        Raises:
            Cancelled: the run was cancelled; not to be caught by the stage.
        """
        if (self.folder / "cancel").exists():
            raise Cancelled

    @contextmanager
    def cancellable(self, *networks: Any) -> Iterator[None]:
        """Let these networks, modules of torch, look for a cancellation as `check` does before each of their blocks.

        A call of a text encoder or an autoencoder takes as long as several steps.
        """
        next_look = 0.0

        def look(*_: Any) -> None:
            nonlocal next_look
            if (now := time.monotonic()) >= next_look:
                next_look = now + LOOK_EVERY
                self.check()

        hooks = [block.register_forward_pre_hook(look) for network in networks for block in _blocks(network)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def log(self, text: str) -> None:
        """Add a line to the run's log.

        Raises:
            DiskFull: there is no room.
        """
        path = self.folder / "log.txt"
        with report_write_errors(path), open(path, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {text}\n")

    def say_placement(self, choice: Choice) -> None:
        """Log and record the offload mode; nothing on a CPU."""
        if choice.peak_gpu_bytes is not None:
            self.log(f"Offload {choice.key}: {choice.reason}")
            self.record(offload=choice.key, vae_tiled=choice.tiled)

    def metadata(self, request: TextToImage | ImageToVideo) -> dict[str, str]:
        """What the file of an artifact says of how it was made."""
        known = json.dumps({**request.to_json(), "seed": self.seed}, ensure_ascii=False)
        return {"Software": "WanAvatar Lab", "Prompt": request.prompt, "Request": known}

    def record(self, **facts: Any) -> None:
        """Add facts to the manifest, such as hashes of models and measured values; each must be valid JSON."""
        self.facts.update(facts)


def _blocks(network: Any) -> Iterator[Any]:
    """The repeated parts of a network: items of its lists of modules that are more than a single layer."""
    for module in network.modules():
        # by name, since torch takes seconds to import and clients import this module
        if type(module).__name__ in ("ModuleList", "Sequential"):
            yield from (item for item in module if any(True for _ in item.children()))
