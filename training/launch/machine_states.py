"""What the machines of a run say of themselves in its folder, by which all of them end when one does.

Each machine writes `machines/<number>/state.json`, and touches it every `BEAT` seconds while it trains. A file that
is no longer touched is of a machine that is down, or cut off from the shared disk. So there is no connection beside
those of the training itself, and any process that sees the folder can monitor a run and stop it.

Looks are counted instead of comparing clocks, which differ by machine: a disk that stands still for a while stops those
who look too, and takes nobody for lost.

Imports no torch: notebooks watch runs through it.
"""

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from training.launch.processes import MACHINES, folder_of_machine
from wanavatar_lab.files import write_json

STATE = "state.json"
BEAT = 2.0  # seconds
LOST_AFTER = 15  # looks, a BEAT apart: half a minute, in which a shared disk may hesitate
JOIN = 300.0  # seconds for all machines to begin, from the first: a job scheduler starts them one after another
FRESH = 60.0  # seconds: the oldest touch of a machine that trains, for who looks only once; clocks may differ by some

State = Literal["not started", "running", "finished", "stopped", "failed"]
# How surely a failure is where all began, first the surest. A process that was killed, or a machine that is lost, is no
# consequence of anything here; an error may come from a connection that another's end has cut.
Cause = Literal["killed", "lost", "raised", "told"]
_CAUSES: tuple[Cause, ...] = ("killed", "lost", "raised", "told")


@dataclass(frozen=True)
class Report:
    """What a machine says of itself.

    Attributes:
        number: from 0, as in torchrun's node rank.
        name: of the machine.
        launch: of the start that it belongs to; empty if nobody named it.
        why: the reason, if it failed.
        cause: what kind of reason; "told" if it ended since another did.
        at: when it failed, in seconds since 1970 by its own clock.
        facts: what it has; see `training.launch.machines.facts`.
    """

    number: int
    name: str
    launch: str = ""
    state: State = "running"
    why: str = ""
    cause: Cause = "told"
    at: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"Machine {self.number} ({self.name})"

    def write(self, run: Path) -> None:
        """Write it into the run's folder."""
        place = folder_of_machine(run, self.number)
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / STATE, asdict(self))

    def touch(self, run: Path) -> None:
        """Say that the machine still trains; a file that a later start removed is written again."""
        # a disk that fails for long is what the others notice, and one that fails once ends no training
        with suppress(OSError):
            try:
                os.utime(folder_of_machine(run, self.number) / STATE)
            except FileNotFoundError:
                self.write(run)


def read_reports(run: Path) -> dict[int, tuple[Report, int]]:
    """The reports in a run's folder, and when each was touched last in nanoseconds, by the disk's clock."""
    found = {}
    for path in (run / MACHINES).glob(f"*/{STATE}"):
        # one that is being replaced, or that another release wrote
        with suppress(OSError, ValueError, TypeError), open(path, encoding="utf-8") as file:
            # of the open file: to open it makes an NFS client ask its server, to look at the name does not
            touched = os.fstat(file.fileno()).st_mtime_ns
            report = Report(**json.loads(file.read()))
            found[report.number] = report, touched
    return found


def first_cause(reports: Iterable[Report]) -> Report | None:
    """The failure from which the others came; None if no machine failed."""
    failed = [report for report in reports if report.state == "failed"]
    return min(failed, key=lambda report: (_CAUSES.index(report.cause), report.at), default=None)


def joint_ending(reports: Iterable[Report]) -> tuple[State, str]:
    """How a run ended whose machines say this last, and why."""
    reports = list(reports)
    if first := first_cause(reports):
        return "failed", f"{first}: {first.why}"
    silent = [str(report) for report in reports if report.state == "running"]
    if silent or not reports:
        return "failed", f"{', '.join(silent) or 'Every machine'}: not heard of any more."
    stopped = [report for report in reports if report.state == "stopped"]
    return ("stopped", next((report.why for report in stopped if report.why), "")) if stopped else ("finished", "")


def joint_state(run: Path) -> tuple[State, str]:
    """How a run on several machines stands or ended, and why, by one look at what they say."""
    found, now = read_reports(run).values(), time.time()
    if any(report.state == "running" and now - touched / 1e9 < FRESH for report, touched in found):
        return "running", ""
    return joint_ending(report for report, _ in found)


class Watch:
    """Looks at what the machines of a run say, again and again, a BEAT apart.

    Args:
        run: its folder.
        count: of machines.
        launch: of the start whose reports count; empty takes those that have changed since the first look, since
            an earlier start may have left some.

    Attributes:
        reports: of all machines that have begun, by the last look; one that is lost, or never came, has failed.
    """

    def __init__(self, run: Path, count: int, launch: str = "") -> None:
        self.count = count
        self._run, self._launch = run, launch
        self._before: dict[int, int] | None = None  # when each was touched at the first look
        self._touched: dict[int, int] = {}
        self._quiet: dict[int, int] = {}  # looks without a touch
        self._began, self._looked = time.monotonic(), -BEAT
        self.reports: dict[int, Report] = {}

    def look(self) -> bool:
        """Read the reports, unless that was done a moment ago; whether it was done now."""
        if time.monotonic() - self._looked < BEAT:
            return False
        self._looked = time.monotonic()
        found = read_reports(self._run)
        if self._before is None:
            self._before = {} if self._launch else {number: touched for number, (_, touched) in found.items()}
        for number in range(self.count):
            report, touched = found.get(number, (None, 0))
            if report is not None and touched == self._before.get(number):
                report = None  # of an earlier start
            if report is not None and report.launch == self._launch:
                self._quiet[number] = self._quiet.get(number, 0) + 1 if touched == self._touched.get(number) else 0
                self._touched[number] = touched
                self._before.pop(number, None)
                self.reports[number] = report
            elif number in self.reports:
                self._quiet[number] += 1  # its file cannot be read at the moment
            elif time.monotonic() - self._began > JOIN:
                self.reports[number] = Report(number, "?", self._launch, "failed", self._absent(), "lost", time.time())
            known = self.reports.get(number)
            if known and known.state == "running" and self._quiet[number] >= LOST_AFTER:
                why = (
                    f"not heard of for {BEAT * LOST_AFTER:.0f} s: it is down, or cut off from the disk of {self._run}."
                )
                lost = {"state": "failed", "why": why, "cause": "lost", "at": self._touched[number] / 1e9}
                self.reports[number] = Report(**asdict(known) | lost)
        return True

    @property
    def trouble(self) -> Report | None:
        """The machine that has failed, by the last look."""
        return first_cause(self.reports.values())

    @property
    def is_over(self) -> bool:
        """Whether all machines have ended, by the last look."""
        ended = [report for report in self.reports.values() if report.state != "running"]
        return len(ended) == self.count

    def _absent(self) -> str:
        return (
            f"not begun after {JOIN:.0f} s. Start the same command there, with its own --machine-rank, and with "
            f"{self._run} on a disk that all machines share."
        )
