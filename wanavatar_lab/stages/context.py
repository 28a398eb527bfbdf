"""What a stage gets beside its request and its models: the run's folder and seed, progress, cancellation and log."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import Cancelled
from wanavatar_lab.files import encoded, report_write_errors
from wanavatar_lab.memory import Choice
from wanavatar_lab.requests import Request
from wanavatar_lab.requests.sizes import cut_off
from wanavatar_lab.runs.finish import partial_file
from wanavatar_lab.runs.inputs import name_originals, read_inputs
from wanavatar_lab.runs.made_with import describe
from wanavatar_lab.runs.ranks import Ranks

WHOLE = (0.0, 1.0)
LOOK_EVERY = 0.05  # seconds: blocks of a toy network take microseconds, and a look at a network disk milliseconds


@dataclass(frozen=True)
class Step:
    """Progress of a stage: `step` of `steps` of `phase` is done, in `segment` of `segments` (from 1).

    The phase takes the part of the segment, or of the run where there are none, from `part[0]` to `part[1]`.
    """

    phase: str
    step: int
    steps: int
    segment: int | None = None
    segments: int | None = None
    part: tuple[float, float] = WHOLE


@dataclass
class StageContext:
    """The run that a stage works for.

    Attributes:
        folder: the run's folder. Write artifacts there through `wanavatar_lab.files.whole_file` or the writers of
            `wanavatar_lab.media`; names that begin with a dot are temporary and are removed when the run finishes.
        seed: the seed to use; drawn at random if the request has none.
        on_step: called with every `progress`.
        facts: the values that `record` has collected.
        ranks: the processes that share the run. All of them call the methods below alike; the first one acts.
    """

    folder: Path
    seed: int
    on_step: Callable[[Step], None] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    ranks: Ranks = field(default_factory=Ranks)
    _writer: Any = field(default=None, init=False, repr=False)  # of the run's video, while it is written

    def progress(
        self,
        phase: str,
        step: int,
        steps: int,
        *,
        segment: int | None = None,
        segments: int | None = None,
        part: tuple[float, float] = WHOLE,
    ) -> None:
        """Report that `step` of `steps` of a phase are done; 0 when the phase begins.

        Only phases of more than one step, or of a part of the time, move the run's progress bar.

        Raises:
            DiskFull: there is no room for the status, and so none for the artifact.
        """
        if self.on_step is not None:
            self.on_step(Step(phase, step, steps, segment, segments, part))

    def check(self) -> None:
        """Stop if the run was cancelled; costs one look at the disk. To be called at least once per denoising step.

        Raises:
            Cancelled: the run was cancelled; not to be caught by the stage.
            MediaError, DiskFull: the run's video cannot be written.
        """
        if self.ranks.agreed(self._is_cancelled()):
            raise Cancelled
        if self._writer is not None:
            self._writer.check()

    def look(self) -> None:
        """As `check`, where the processes that share the run do not do the same, as while they load.

        Raises:
            Cancelled: the run was cancelled.
        """
        if self._is_cancelled():
            raise Cancelled

    def _is_cancelled(self) -> bool:
        return self.ranks.leads and os.path.exists(self.folder / "cancel")  # also of a disk that is away

    @contextmanager
    def cancellable(self, *networks: Any) -> Iterator[None]:
        """Let these networks, modules of torch, look for a cancellation as `check` does before each of their blocks.

        A call of a text encoder or an autoencoder takes as long as several steps.
        """
        next_look = 0.0

        def look(*_: Any) -> None:
            nonlocal next_look
            if self.ranks.world > 1:  # by the block, since clocks differ
                self.check()
            elif (now := time.monotonic()) >= next_look:
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
        if not self.ranks.leads:
            return
        path = self.folder / "log.txt"
        with report_write_errors(path), open(path, "ab") as file:
            file.write(encoded(f"{time.strftime('%H:%M:%S')} {name_originals(text, self.folder)}\n"))

    @contextmanager
    def warnings_logged(self) -> Iterator[None]:
        """Add to the run's log, once each, what this package warns of meanwhile, such as a loss in an input file."""
        handler, package = _IntoLog(self), logging.getLogger("wanavatar_lab")
        package.addHandler(handler)
        try:
            yield
        finally:
            package.removeHandler(handler)

    def partial(self, name: str) -> Path:
        """A hidden file to write the video `name` to until it is whole.

        Where the run ends early, however it ends, what can be played of it becomes an artifact.
        """
        return partial_file(self.folder, name)

    @contextmanager
    def writer(self, kind: Callable[..., Any], name: str, **options: Any) -> Iterator[Any]:
        """A `media.BackgroundWriter` of the run's video `name`; one that writes nothing in other processes.

        Args:
            kind: the class of the writer behind it, which takes a path.
            name: of the file.
            options: further arguments of the class.
        """
        if not self.ranks.leads:
            yield _NoWriter()
            return
        from wanavatar_lab.media import BackgroundWriter  # clients import this module, and PyAV takes a while

        with BackgroundWriter(kind(self.folder / name, partial=self.partial(name), **options)) as self._writer:
            try:
                yield self._writer
            finally:
                self._writer = None

    def say_placement(self, choice: Choice) -> None:
        """Log and record the offload mode; nothing on a CPU."""
        if choice.peak_gpu_bytes is not None:
            self.log(f"Offload {choice.key}: {choice.reason}")
            self.record(offload=choice.key, vae_tiled=choice.tiled)

    def say_crop(self, name: str, picture: tuple[int, int], size: tuple[int, int], *, by_choice: bool = False) -> None:
        """Log the share of a picture or video that is cut off to fill the frame; nothing below half a percent.

        Args:
            name: of the request's field that has it.
            picture, size: width and height of it, and of the frame.
            by_choice: whether the request has this size, so that another resolution would cut off less.
        """
        share = f"{cut_off(picture, size):.0%}"
        if share == "0%":
            return
        (width, height), (columns, rows) = picture, size
        sides = "left and right" if width * rows > height * columns else "top and bottom"
        advice = " resolution auto, 480p and 720p keep the shape of the picture." if by_choice else ""
        self.log(f"{share} of {name} ({width}x{height}) is cut off at {sides} to fill {columns}x{rows}.{advice}")

    def say_tokens(self, name: str, tokens: int, most: int) -> None:
        """Log how many tokens of a prompt the model does not read, if it has more than `most`."""
        if tokens > most:
            self.log(f"{name} has {tokens} tokens: the model reads the first {most}, and {tokens - most} are left out.")

    def metadata(
        self, request: Request, weights: Mapping[str, str], loras: Sequence[Mapping[str, Any]] = ()
    ) -> dict[str, str]:
        """What the file of an artifact says of how it was made: `runs/made_with.py` reads it back.

        Args:
            request: the run's.
            weights: fingerprints of the weights, by file.
            loras: as the manifest has them.
        """
        return describe(request, self.seed, read_inputs(self.folder), weights, loras)

    def record(self, **facts: Any) -> None:
        """Add facts to the manifest, such as hashes of models and measured values; each must be valid JSON."""
        self.facts.update(facts)


class _NoWriter:
    """What a process that writes no file has in place of a writer."""

    frames = 0

    def write(self, frames: Any) -> None:
        """Nothing; the frames are not even made."""


class _IntoLog(logging.Handler):
    def __init__(self, context: StageContext) -> None:
        super().__init__(logging.WARNING)
        self._context, self._said = context, set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self._said:
            self._said.add(text)
            self._context.log(text)


def _blocks(network: Any) -> Iterator[Any]:
    """The repeated parts of a network: items of its lists of modules that are more than a single layer."""
    for module in network.modules():
        # by name, since torch takes seconds to import and clients import this module
        if type(module).__name__ in ("ModuleList", "Sequential"):
            yield from (item for item in module if any(True for _ in item.children()))
