"""The lines of a log that say how far a chain is.

How long a chain will still take: from what is typical at first, then from what was measured.
"""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from wanavatar_lab.runs.status import Status


class Typical(NamedTuple):
    """Seconds that a stage spends before its first step, in the steps that it counts, and after the last one."""

    before: float
    steps: float
    after: float

    @property
    def whole(self) -> float:
        """Seconds from its submission to its end."""
        return self.before + self.steps + self.after


UNKNOWN = Typical(2.0, 10.0, 1.0)

# By profile and stage, for the defaults of `links.talking_avatar`. What matters is the shares of the whole: how fast
# this machine is shows as soon as the first steps are done.
TYPICAL: dict[str, dict[str, Typical]] = {
    # measured on two cores of a server
    "pocket": {
        "text_to_image": Typical(5.0, 1.0, 0.5),
        "upscale": Typical(0.5, 0.1, 0.0),
        "image_to_video": Typical(0.6, 2.5, 0.8),
        "speech_to_video": Typical(0.6, 4.3, 2.5),
    },
    # from the sizes of the networks, for one GPU that holds them; not measured
    "full": {
        "text_to_image": Typical(60.0, 5.0, 2.0),
        "upscale": Typical(5.0, 5.0, 1.0),
        "image_to_video": Typical(120.0, 1200.0, 30.0),
        "speech_to_video": Typical(90.0, 600.0, 30.0),
    },
}


@dataclass(frozen=True)
class Progress:
    """How far a chain is.

    Attributes:
        stage: that is at work.
        number: of the link, from 1, of `count`.
        status: of its run.
        seconds: since it was submitted.
        seconds_left: for all links that are not done, about.
    """

    stage: str
    number: int
    count: int
    status: Status
    seconds: float
    seconds_left: float

    def __str__(self) -> str:
        """One line for people."""
        text = f"{self.stage} ({self.number} of {self.count}): {self._doing()}"
        over = self.status.ended and self.number == self.count
        return text if over else f"{text}; about {self.seconds_left:.0f} s left"

    def _doing(self) -> str:
        now = self.status
        if now.state == "succeeded":
            return f"done in {self.seconds:.0f} s"
        if now.state == "running" and now.steps is not None and now.steps > 1:
            segment = f" of segment {now.segment} of {now.segments}" if (now.segments or 1) > 1 else ""
            return f"{now.phase}, step {now.step} of {now.steps}{segment}"
        if now.state == "queued" and (now.queue_place or 1) == 1:
            return "starts"
        return now.message or now.state


class Forecast:
    """Tells the time left while links are done one after the other.

    The pace is the time that was taken so far against what is typical for the same part of the work.
    """

    def __init__(self, stages: Sequence[tuple[str, Typical]], clock: Callable[[], float] = time.monotonic) -> None:
        """Begin now.

        Args:
            stages: of every link, in order, with what it typically takes.
            clock: seconds, for tests.
        """
        self._stages = [stage for stage, _ in stages]
        self._typical = [typical for _, typical in stages]
        self._clock = clock
        self._began = self._began_link = self._estimated = clock()
        self._seen = (0, 0.0)  # link and fraction at the last estimate
        self._left = sum(typical.whole for typical in self._typical)
        self._least = self._left - self._typical[0].whole

    def progress(self, index: int, status: Status) -> Progress:
        """How far the whole is, when the links before `index` are done and that one's run has this status.

        Between two steps the time left counts down, though never below what the links behind this one need.
        """
        now = self._clock()
        if index != self._seen[0]:
            self._began_link = now
        done, fraction = (index + 1, 0.0) if status.ended else (index, status.fraction)
        if (done, fraction) != self._seen:
            self._estimate(done, fraction, now)
        left = max(self._left - (now - self._estimated), self._least)
        seconds = now - self._began_link
        if status.ended:
            self._began_link = now
        return Progress(self._stages[index], index + 1, len(self._stages), status, seconds, left)

    def _estimate(self, index: int, fraction: float, now: float) -> None:
        done = sum(typical.whole for typical in self._typical[:index])
        whole = behind = sum(typical.whole for typical in self._typical[index + 1 :])
        whole += done
        if index < len(self._typical):
            present = self._typical[index]
            whole += present.whole
            if fraction > 0:
                done += present.before + fraction * present.steps
        pace = (now - self._began) / done if done else 1.0
        self._seen, self._estimated, self._left, self._least = (
            (index, fraction),
            now,
            pace * (whole - done),
            pace * behind,
        )


PARTS = 5  # a log gets a line each time that so many parts of a stage's steps are done


def on_progress(write: Callable[[str], object] | None = None) -> Callable[[Progress], None]:
    """What `follow` should tell its progress to where nobody looks on: lines worth keeping, some six for each stage.

    Args:
        write: takes the lines instead of standard output.
    """
    put = write or _print
    last: list[tuple[int, int, bool]] = []

    def show(progress: Progress) -> None:
        parts = int(progress.status.fraction * PARTS)
        now = (progress.number, parts, progress.status.ended)
        if [now] != last:
            last[:] = [now]
            put(str(progress))

    return show


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
