"""A grid of runs over values of fields, and a contact sheet of their results.

grid = sweep(request, seed=[1, 2, 3], guidance_scale=[4.5, 5.5])
grid                       # in a notebook: a sheet that fills itself
await grid.results()       # waits for all of them
"""

import asyncio
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import traitlets

from wanavatar_lab.errors import LabError, RequestError, RunError
from wanavatar_lab.files import printable
from wanavatar_lab.jobs import Job, submit
from wanavatar_lab.lora import check_loras
from wanavatar_lab.requests import Request, fields_of
from wanavatar_lab.requests.request import must_be, suggestion
from wanavatar_lab.runs.status import Status, main_artifact
from wanavatar_lab.ui.form import labelled
from wanavatar_lab.ui.language import read_words
from wanavatar_lab.ui.record import Record, is_headless, record_of_file, table
from wanavatar_lab.ui.served_files import kind_of, served_path
from wanavatar_lab.ui.thumbnails import answer
from wanavatar_lab.ui.widget import LabWidget, repeat, script, start, styles

MOST_RUNS = 256  # a sheet beyond that is a typing error rather than an experiment
POLL_SECONDS = 0.5
SHEET_SIDE = 384  # longest side in pixels of a picture that a notebook keeps of a cell


@dataclass(frozen=True)
class SweepResult:
    """One cell of the grid.

    Attributes:
        values: the varied fields, with their values in this cell.
        job: the run.
        path: its main file; None if it failed or was cancelled.
        error: why there is none; empty if there is.
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
        axes: field → its values, in order.
        jobs: the runs; the last axis varies fastest.
    """

    request: Request
    axes: Mapping[str, Sequence[Any]]
    jobs: Sequence[Job]
    _sheets: "list[ContactSheet]" = field(default_factory=list, compare=False, repr=False)

    async def results(self) -> list[SweepResult]:
        """Wait until all have ended, without blocking. A failed run does not hide the others.

        Interrupting this cancels the runs that have not ended.
        """
        found = []
        try:
            if is_headless():
                from wanavatar_lab.ui.job_card import progress_lines

                await progress_lines(*self.jobs)
            for values, job in zip(_grid(self.axes), self.jobs, strict=True):
                try:
                    await job.result(progress=False)
                    found.append(SweepResult(values, job, self._file(job, job.run.status())))
                except RunError as error:
                    found.append(SweepResult(values, job, None, str(error)))
        except (KeyboardInterrupt, asyncio.CancelledError):
            self.cancel()
            raise
        for sheet in self._sheets:
            self._fill(sheet, range(len(self.jobs)))
            await sheet.keep()
        return found

    def cancel(self) -> None:
        """Cancel the runs that have not ended, the last one first, so that none starts meanwhile."""
        for job in reversed(self.jobs):
            with suppress(RunError):  # it was deleted
                job.cancel()

    def sheet(self) -> "ContactSheet":
        """A table of the results: the last field's values in columns, all others in rows.

        In a running event loop it fills as runs end, until it is closed; elsewhere it has the results so far.
        """
        *down, across = self.axes
        kind = type(self.request)
        rows = [labelled(kind, values) for values in _grid({name: self.axes[name] for name in down})]
        columns = [labelled(kind, {across: value}) for value in self.axes[across]]
        sheet = ContactSheet(rows, columns)
        waiting = [*range(len(self.jobs))]

        def fill() -> bool:
            waiting[:] = self._fill(sheet, waiting)
            if not waiting:
                start(sheet.keep())
            return not waiting

        self._sheets.append(sheet)
        if not fill():
            repeat(fill, POLL_SECONDS, sheet)
        return sheet

    def _fill(self, sheet: "ContactSheet", cells: Iterable[int]) -> list[int]:
        """Show the results of the runs of these cells; returns the cells whose runs have not ended."""
        waiting: list[int] = []
        with sheet.hold_sync():
            for cell in cells:
                row, column = divmod(cell, len(sheet.columns))
                job = self.jobs[cell]
                try:
                    # job.status() checks that a worker is alive, which is enough once per call
                    status = job.run.status() if waiting else job.status()
                    if not status.ended:
                        waiting.append(cell)
                    elif status.state == "succeeded":
                        sheet.fill(row, column, self._file(job, status))
                    else:
                        sheet.leave(row, column, status.state, status.error or "")
                except RunError:  # deleted by a person
                    sheet.leave(row, column, "gone")
                except (LabError, OSError) as error:  # its file is none of a page, or is gone
                    sheet.leave(row, column, "unseen", str(error))
        return waiting

    def _file(self, job: Job, status: Status) -> Path:
        return job.run.path(main_artifact(status.artifacts, self.request.artifact))

    def _ipython_display_(self) -> None:
        from IPython.display import display  # only a kernel has it

        display(self.sheet())


def sweep(request: Request | None, /, **lists: Sequence[Any]) -> Sweep:
    """Queue a run for every combination of values.

    Args:
        request: what they have in common; None, which a form gives for values that are not allowed, is refused.
        lists: field → its values.

    Raises:
        RequestError: there is no such field, a value is not allowed or a file is missing, or there are too many
            runs; nothing is queued.
        LabError, KeyboardInterrupt: as `jobs.submit`; those that are queued by then are cancelled.
    """
    if request is None:
        raise RequestError([("", "there is no request; correct the errors shown in the form, and try again")])
    views = fields_of(type(request))
    axes: dict[str, list[Any]] = {}
    for name, values in lists.items():
        if name not in views:
            raise RequestError([(name, f"there is no such field; {suggestion(name, views)}")])
        is_list = hasattr(values, "__iter__") and not isinstance(values, str | bytes | Mapping)
        axes[name] = list(values) if is_list else []
        if not axes[name]:
            allowed = f"a list of values to try, each {views[name].allowed}"
            raise RequestError([(name, must_be(allowed, values))])
    if not axes:
        raise RequestError([("", "there is nothing to try; give a field with a list of values, such as seed=[1, 2]")])
    if (count := math.prod(map(len, axes.values()))) > MOST_RUNS:
        raise RequestError([("", f"{count} runs are too many; try at most {MOST_RUNS} at a time")])
    # all that can be checked before a run is, and all problems are raised at once
    problems: dict[tuple[str, str], None] = {}
    requests = []
    for cell in _grid(axes):
        try:
            requests.append(changed := request.changed(**cell))
            changed.check_inputs()
            check_loras(changed)
        except RequestError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise RequestError(list(problems))
    tried = Sweep(request, axes, queued := list[Job]())
    try:
        for each in requests:
            queued.append(submit(each))
    except BaseException:  # the disk is full, or Ctrl-C, after which nobody has the runs that are queued by then
        tried.cancel()
        raise
    return tried


def _grid(axes: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


class ContactSheet(LabWidget):
    """A table of files; cells may be filled one by one.

    Args:
        rows: a label for each row, for example "seed 1".
        columns: a label for each column.

    Attributes:
        cells: per row and column `{"id", "path", "kind", "version"}`, with the path "" where the server does not serve
            the file and the kernel sends it; None where there is no file yet, or `{"why", "error"}` where there will be
            none.

    Raises:
        LabError: there are no rows or no columns.
    """

    _esm = script("thumbnails", "contact_sheet")
    _css = styles("contact_sheet")
    WORDS = read_words(__file__, "states", "contact_sheet")

    rows = traitlets.List(traitlets.Unicode()).tag(sync=True)
    columns = traitlets.List(traitlets.Unicode()).tag(sync=True)
    cells: traitlets.List[Any] = traitlets.List().tag(sync=True)

    def __init__(self, rows: Sequence[str], columns: Sequence[str]) -> None:
        if not rows or not columns:
            raise LabError(f"A contact sheet of {len(rows)} rows and {len(columns)} columns is empty.")
        self._files: dict[str, Path] = {}  # by the id of their cells
        super().__init__(rows=list(rows), columns=list(columns), cells=[[None] * len(columns) for _ in rows])

    def fill(self, row: int, column: int, path: Path | str) -> None:
        """Put a picture, clip or recording into a cell.

        Raises:
            LabError: it is no picture, clip or recording.
            OSError: it is not there.
        """
        path, cell = Path(path), f"{row} {column}"
        kind = kind_of(path)
        if not kind:
            raise LabError(f"{path.name} is no picture, clip or sound, and cannot be put on a contact sheet.")
        version = str(path.stat().st_mtime_ns)
        self._files[cell] = path
        self._put(row, column, {"id": cell, "path": served_path(path), "kind": kind, "version": version})

    def leave(self, row: int, column: int, why: str, error: str = "") -> None:
        """Mark a cell that stays empty.

        Args:
            row, column: of the cell.
            why: failed, cancelled, gone or unseen.
            error: the reason in full, if there is more to say.
        """
        self._put(row, column, {"why": why, "error": error})

    def receive(self, content: Mapping[str, Any], buffers: Sequence[memoryview] = ()) -> None:
        """Send a file that the page cannot get from its server."""
        if content.get("kind") in ("thumbnail", "clip"):
            start(answer(self, content, self._files.get(str(content.get("id")))))

    def record(self) -> Record:
        """The table, with its files; clips are embedded while all of them together are small."""
        from wanavatar_lab.media.embed import LARGEST_EMBEDDED  # slow to import

        largest = LARGEST_EMBEDDED // (len(self.rows) * len(self.columns))

        def in_cell(cell: dict[str, str] | None) -> Record:
            if cell is None:
                return Record("…")
            if "path" not in cell:
                return Record(f"<p>{escape(self.WORDS.text(cell['why']))} {escape(printable(cell['error']))}</p>")
            return record_of_file(self._files[cell["id"]], side=SHEET_SIDE, largest=largest)

        return table(self.rows, self.columns, [[in_cell(cell) for cell in line] for line in self.cells])

    def _put(self, row: int, column: int, cell: dict[str, str]) -> None:
        cells = [list(line) for line in self.cells]  # a change in place would not be noticed
        cells[row][column] = cell
        self.cells = cells
