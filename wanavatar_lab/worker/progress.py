"""From a stage's steps to the run's status: fraction, time left, peak memory, seconds per phase."""

import os
import sys
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path

from wanavatar_lab.errors import LabError
from wanavatar_lab.memory.machine import peak_host_bytes
from wanavatar_lab.runs.run import Run, is_there
from wanavatar_lab.stages.context import WHOLE, Step

MOST_WRITES = 10  # per second: as often as a page looks; a new phase or segment is always written
ALMOST = 0.99  # the most that is shown before the run has ended


class ProgressMeter:
    """Writes one run's status while it is executed.

    Attributes:
        status: as reported last, which may be up to 1 / MOST_WRITES seconds newer than what is written.
        seconds: how long each phase took so far.
    """

    def __init__(self, run: Run) -> None:
        self.seconds: dict[str, float] = {}
        self._run = run
        self.status = run.status()
        self._last_report = self._last_write = time.monotonic()
        # (time, fraction) of the last steps: enough to even out single slow ones, few enough to follow a new segment
        self._done: deque[tuple[float, float]] = deque(maxlen=16)
        _reset_peak_memory()

    def begin(self, phase: str, **fields: int | None) -> None:
        """A phase without steps begins; `fields` of the status become known with it."""
        self._charge(self.status.phase)
        self.status = self.status.model_copy(update={"phase": phase, "message": phase, **fields})
        self._write()

    def step(self, step: Step) -> None:
        """A stage's report.

        Raises:
            DiskFull: there is no room for the status.
        """
        before = self.status
        # the time since the last report went into the step that is now done, or, before step 0, into what came before
        self._charge(step.phase if step.step > 0 else before.phase)
        message, fraction = step.phase, 0.0
        if step.steps > 1:
            message += f" {step.step}/{step.steps}"
        if step.steps > 1 or step.part != WHOLE:
            begin, end = step.part
            fraction = begin + (end - begin) * step.step / step.steps
            if step.segment and step.segments:
                fraction = (step.segment - 1 + fraction) / step.segments
        if step.segments:
            message += f", segment {step.segment}/{step.segments}"
        fraction = max(before.fraction, min(ALMOST, fraction))
        if fraction > before.fraction:
            self._done.append((self._last_report, fraction))
        eta = None
        if len(self._done) > 1:
            (first, start), (last, end) = self._done[0], self._done[-1]
            left = (1.0 - fraction) * (last - first) / (end - start)
            eta = round(max(0.0, left - (self._last_report - last)), 1)
        shown = {name: value for name, value in asdict(step).items() if name != "part"}
        self.status = before.model_copy(update={**shown, "message": message, "fraction": fraction, "eta_seconds": eta})
        changed = (before.phase, before.segment) != (step.phase, step.segment)
        if changed or self._last_report - self._last_write >= 1 / MOST_WRITES:
            self._write()

    def close(self) -> None:
        """The stage has ended or failed: count the time up to now, write nothing."""
        self._charge(self.status.phase)

    def _charge(self, phase: str) -> None:
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last_report
        self._last_report = now

    def _write(self) -> None:
        self.status = self.status.model_copy(update={"memory_bytes": peak_memory()})
        try:
            self._run.write_status(self.status, sync=False)
        except (LabError, OSError):
            # a disk that is not connected now may be back before the stage has something to keep
            if is_there(self._run.folder.parent):
                raise
        self._last_write = self._last_report


def peak_memory() -> int:
    """The peak in bytes: of what torch has on the GPU if it uses one, else of this process's resident set."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    return peak_host_bytes()


def _reset_peak_memory() -> None:
    """Let `peak_memory` count from now on."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    if os.access("/proc/self/clear_refs", os.W_OK):
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak of the resident set to its present size
