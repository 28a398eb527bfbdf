"""Try values of fields against each other: a grid of runs, and a sheet that shows what they made side by side.

tried = sweep(request, seed=[1, 2, 3], guidance_scale=[4.5, 5.5])
tried                      # in a notebook: a sheet that fills itself
await tried.results()      # where nobody looks on
"""

import asyncio
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import LabError, RequestError, RunError
from wanavatar_lab.jobs import Job, submit
from wanavatar_lab.lora import check_loras
from wanavatar_lab.requests import Request, fields_of
from wanavatar_lab.requests.request import shown, suggestion
from wanavatar_lab.runs.status import main_artifact
from wanavatar_lab.ui.contact_sheet import ContactSheet
from wanavatar_lab.ui.form import titled
from wanavatar_lab.ui.tasks import loop_runs, start

MOST_RUNS = 256
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Tried:
    """One place of the grid.

    Attributes:
        values: the fields that are tried, with the values here.
        job: the run.
        path: what it made; None if it failed or was cancelled.
        error: why there is nothing; empty if there is.
    """

    values: Mapping[str, Any]
    job: Job
    path: Path | None
    error: str = ""


@dataclass(frozen=True)
class Sweep:
    """A grid of runs.

    Attributes:
        request: what they have in common.
        axes: field → the values tried of it, in order.
        jobs: the runs; the last axis counts fastest.
    """

    request: Request
    axes: Mapping[str, Sequence[Any]]
    jobs: Sequence[Job]

    async def results(self) -> list[Tried]:
        """Wait until all have ended, without blocking. One that fails does not keep the others from being shown.

        Whoever stops waiting also cancels the runs that have not ended.
        """
        try:
            return [await self._result(values, job) for values, job in zip(_grid(self.axes), self.jobs, strict=True)]
        except (KeyboardInterrupt, asyncio.CancelledError):
            self.cancel()
            raise

    def cancel(self) -> None:
        """End the runs that have not ended, the last one first, so that none begins meanwhile."""
        for job in reversed(self.jobs):
            job.cancel()

    def sheet(self) -> ContactSheet:
        """A table of what is made: the last field's values beside each other, the others' below each other.

        In a notebook it fills while the runs go on, until it is closed; elsewhere it has what is made so far.
        """
        *down, across = self.axes
        kind = type(self.request)
        rows = [titled(kind, values) for values in _grid({name: self.axes[name] for name in down})]
        columns = [titled(kind, {across: value}) for value in self.axes[across]]
        sheet = ContactSheet(rows, columns)
        waiting = self._fill(sheet, range(len(self.jobs)))
        if waiting and loop_runs():
            start(self._fill_on(sheet, waiting))
        return sheet

    async def _fill_on(self, sheet: ContactSheet, waiting: Sequence[int]) -> None:
        while waiting and sheet.comm is not None:
            await asyncio.sleep(POLL_SECONDS)
            waiting = self._fill(sheet, waiting)

    def _fill(self, sheet: ContactSheet, places: Iterable[int]) -> list[int]:
        """Show what has come of the runs of these places; returns the places that are still to come."""
        waiting: list[int] = []
        with sheet.hold_sync():
            for place in places:
                row, column = divmod(place, len(sheet.columns))
                job = self.jobs[place]
                try:
                    # whether a worker is there to make them is asked once, not for each that waits
                    status = job.run.status() if waiting else job.status()
                    if not status.ended:
                        waiting.append(place)
                    elif status.state == "succeeded":
                        sheet.fill(row, column, job.run.path(main_artifact(status.artifacts, self.request.artifact)))
                    else:
                        sheet.leave(row, column, status.state, status.error or "")
                except RunError:  # deleted, as one does with what is not worth keeping
                    sheet.leave(row, column, "gone")
                except LabError as error:
                    sheet.leave(row, column, "unseen", str(error))
        return waiting

    async def _result(self, values: Mapping[str, Any], job: Job) -> Tried:
        try:
            await job.result()
        except RunError as error:
            return Tried(values, job, None, str(error))
        return Tried(values, job, self._made(job))

    def _made(self, job: Job) -> Path | None:
        status = job.run.status()
        if status.state != "succeeded":
            return None
        return job.run.path(main_artifact(status.artifacts, self.request.artifact))

    def _ipython_display_(self) -> None:
        from IPython.display import display  # only a kernel has use for it

        display(self.sheet())


def sweep(request: Request | None, /, **lists: Sequence[Any]) -> Sweep:
    """Queue a run for every combination of values.

    Args:
        request: what they have in common; None, which a form gives for what is not allowed, is refused.
        lists: field → values to try of it.

    Raises:
        RequestError: there is no such field, a value is not allowed or a file is missing, or there are too many
            runs; nothing is queued.
    """
    if request is None:
        raise RequestError([("", "there is no request; put right what the form says is wrong, and try again")])
    axes = {name: _values(name, values, type(request)) for name, values in lists.items()}
    count = 1
    for values in axes.values():
        count *= len(values)
    if not axes:
        raise RequestError([("", "there is nothing to try; give a field with a list of values, such as seed=[1, 2]")])
    if count > MOST_RUNS:
        raise RequestError([("", f"{count} runs are too many; try at most {MOST_RUNS} at a time")])
    queued: list[Job] = []
    try:
        for each in _checked(request, axes):
            queued.append(submit(each))
    except LabError:  # the disk is full
        for job in reversed(queued):
            job.cancel()
        raise
    return Sweep(request, axes, queued)


def _values(name: str, values: Any, request_class: type[Request]) -> list[Any]:
    views = fields_of(request_class)
    if name not in views:
        raise RequestError([(name, f"there is no such field; {suggestion(name, views)}")])
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__") or not (listed := list(values)):
        advice = f"give a list of values to try, each {views[name].allowed}"
        raise RequestError([(name, f"{shown(values)} is not allowed; {advice}")])
    return listed


def _checked(request: Request, axes: Mapping[str, Sequence[Any]]) -> list[Request]:
    """The request of every place, all that can be known of them found allowed."""
    problems: dict[tuple[str, str], None] = {}
    requests = []
    for values in _grid(axes):
        try:
            requests.append(changed := request.changed(**values))
            changed.check_inputs()
            check_loras(changed)
        except RequestError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise RequestError(list(problems))
    return requests


def _grid(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
