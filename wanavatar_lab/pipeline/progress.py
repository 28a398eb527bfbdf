"""Progress of a chain and the time left: an estimate from typical times at first, then from measured ones."""

import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from wanavatar_lab.runs.status import Status


class Typical(NamedTuple):
    """Seconds that a stage spends before its first step, in the steps that it counts, and after the last one."""

    before: float
    steps: float
    after: float

    @property
    def whole(self) -> float:
        """Seconds from submission to end."""
        return self.before + self.steps + self.after


# of a custom stage, about which nothing is known
UNKNOWN = Typical(2.0, 10.0, 1.0)

_FILE = Path(__file__).with_name("typical_times.toml")
# by profile and stage
TYPICAL: dict[str, dict[str, Typical]] = {
    profile: {stage: Typical(*seconds) for stage, seconds in stages.items()}
    for profile, stages in tomllib.loads(_FILE.read_text(encoding="utf-8")).items()
}


@dataclass(frozen=True)
class Progress:
    """Progress of a chain.

    Attributes:
        stage: that is running.
        number: of its link, from 1 to `count`.
        count: of all links.
        status: of the link's run.
        seconds: since that run was submitted.
        seconds_left: estimate for all links that are not done.
    """

    stage: str
    number: int
    count: int
    status: Status
    seconds: float
    seconds_left: float

    def __str__(self) -> str:
        """One line for people."""
        now = self.status
        if now.state == "succeeded":
            what = f"done in {self.seconds:.0f} s"
        elif now.state == "running" and now.steps is not None and now.steps > 1:
            segment = f" of segment {now.segment} of {now.segments}" if (now.segments or 1) > 1 else ""
            what = f"{now.phase}, step {now.step} of {now.steps}{segment}"
        elif now.state == "queued" and (now.queue_place or 1) == 1 and not now.queue_paused:
            what = "starting"
        else:
            what = now.message or now.state
        last = now.ended and self.number == self.count
        place = f" ({self.number} of {self.count})" if self.count > 1 else ""
        left = "" if last else f"; about {self.seconds_left:.0f} s left"
        return f"{self.stage}{place}: {what}{left}"


class Forecast:
    """Estimates the time left while links run one after the other.

    The pace is the time taken so far divided by what is typical for the same part of the work.
    """

    def __init__(self, stages: Sequence[tuple[str, Typical]], clock: Callable[[], float] = time.monotonic) -> None:
        """Start now.

        Args:
            stages: of every link, in order, with its typical times.
            clock: seconds, for tests.
        """
        self._stages = [stage for stage, _ in stages]
        self._typical = [typical for _, typical in stages]
        self._clock = clock
        self._started = self._link_started = self._estimated_at = clock()
        self._seen = (0, 0.0)  # link and fraction at the last estimate
        self._left = sum(typical.whole for typical in self._typical)
        self._least = self._left - self._typical[0].whole

    def progress(self, index: int, status: Status) -> Progress:
        """The progress when the links before `index` are done and the run of that link has this status.

        Between two steps the time left counts down, though never below what the later links need.
        """
        now = self._clock()
        if index != self._seen[0]:
            self._link_started = now
        done, fraction = (index + 1, 0.0) if status.ended else (index, status.fraction)
        if (done, fraction) != self._seen:
            self._estimate(done, fraction, now)
        left = max(self._left - (now - self._estimated_at), self._least)
        seconds = now - self._link_started
        if status.ended:
            self._link_started = now
        return Progress(self._stages[index], index + 1, len(self._stages), status, seconds, left)

    def _estimate(self, index: int, fraction: float, now: float) -> None:
        """Estimate the time left when the links before `index` and a fraction of that link's steps are done."""
        done = sum(typical.whole for typical in self._typical[:index])
        later = sum(typical.whole for typical in self._typical[index + 1 :])
        whole = sum(typical.whole for typical in self._typical)
        if fraction > 0:
            done += self._typical[index].before + fraction * self._typical[index].steps
        pace = (now - self._started) / done if done else 1.0
        self._seen, self._estimated_at = (index, fraction), now
        self._left, self._least = pace * (whole - done), pace * later


LINES = 5  # of a log for each stage: one whenever another fifth of its steps is done


def on_progress(write: Callable[[str], object] | None = None) -> Callable[[Progress], None]:
    """A callback for `follow` that writes about six lines for each stage, for logs.

    Args:
        write: takes the lines; None prints them.
    """
    put = write or partial(print, flush=True)
    last: tuple[int, int, bool] | None = None

    def show(progress: Progress) -> None:
        nonlocal last
        now = (progress.number, int(progress.status.fraction * LINES), progress.status.ended)
        if now != last:
            last = now
            put(str(progress))

    return show
