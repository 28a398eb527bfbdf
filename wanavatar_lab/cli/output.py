"""Output of the command line: results on standard output, progress and errors on standard error."""

import io
import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from wanavatar_lab.errors import LabError, RequestError, RunError
from wanavatar_lab.files import printable
from wanavatar_lab.lora import Description
from wanavatar_lab.lora.keys import counts_in_words
from wanavatar_lab.requests.request import prompt_of
from wanavatar_lab.runs.run import Run
from wanavatar_lab.runs.status import Status

WIDEST_LINE = 10_000  # characters: an error message is not cut
BAR_WIDTH = 24  # columns, which leave room for the text on a terminal of 80
LONGEST_PROMPT = 40  # characters of it in the list of runs


def answer(value: Any) -> None:
    """Print a result on standard output: text as it is, anything else as one JSON document."""
    # a file name in bytes that are no Unicode is printed as these bytes, for a shell; in JSON it is escaped
    text = value if isinstance(value, str) else printable(json.dumps(value, indent=2, ensure_ascii=False))
    _write(sys.stdout, text)


def say(text: str) -> None:
    """Print a line that is not a result on standard error."""
    _write(sys.stderr, text)


def _write(stream: TextIO, text: str) -> None:
    """Write a line; characters that the terminal's encoding lacks are escaped."""
    encoding = stream.encoding or "utf-8"
    try:
        data = text.encode(encoding, "surrogateescape")
    except UnicodeEncodeError:
        data = text.encode(encoding, "backslashreplace")
    if hasattr(stream, "buffer"):
        stream.buffer.write(data + b"\n")
    else:  # of a notebook, or another that takes text only
        stream.write(printable(text) + "\n")
    stream.flush()


def complain(error: LabError, *, machine: bool, facts: dict[str, Any] | None = None) -> None:
    """Print an error once: as text on standard error, or with `machine` as JSON with `facts` on standard output."""
    problems = error.problems if isinstance(error, RequestError) else []
    if machine:
        listed = [{"field": field, "message": message} for field, message in problems]
        answer({**(facts or {}), "error": str(error), **({"problems": listed} if listed else {})})
        return
    lines = [f"{field}: {message}" if field else message for field, message in problems] or [str(error)]
    say("\n".join(f"wanavatar-lab: {line}" for line in lines))


def run_lines(runs: Iterable[tuple[Run, Status, str]]) -> Iterator[str]:
    """The list of runs in columns: id, state, time, prompt or files, and how it goes or ended."""
    table = Table.grid("", "", "", "", "", padding=(0, 2, 0, 0))
    for run, status, summary in runs:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.submitted_at)) if status.submitted_at else ""
        table.add_row(*(Text(" ".join(text.split())) for text in (run.id, status.state, when, _about(run), summary)))
    console = Console(width=WIDEST_LINE, file=io.StringIO(), color_system=None)  # whatever the terminal's width is
    with console.capture() as captured:
        console.print(table)
    yield from (line.rstrip() for line in captured.get().splitlines())


def _about(run: Run) -> str:
    """The beginning of a run's prompt, or else the names of its files, in one line; empty where these are damaged."""
    try:
        values = run.read_json("request.json")
    except RunError:
        return ""
    given = [Path(value).name for value in values.values() if isinstance(value, str) and value.startswith("/")]
    text = " ".join((prompt_of(values) or ", ".join(given)).split())
    return printable(text if len(text) <= LONGEST_PROMPT else text[: LONGEST_PROMPT - 1] + "…")


def lora_lines(loras: Iterable[Description]) -> Iterator[str]:
    """The list of LoRAs: a line each, then its usual weight, trigger words, keys left out and problems."""
    for lora in loras:
        if lora.rank is None:
            matrices = "rank unknown" if lora.problem else "full-rank difference"
        else:
            matrices = f"rank {_range(lora.rank)}" + (f", alpha {_range(lora.alpha)}" if lora.alpha else "")
        fits = f"fits {', '.join(lora.fits)}" if lora.fits else "fits no model"
        pair = f", {' and '.join(lora.files)} noise" if lora.files.keys() != {"both"} else ""
        facts = [f"{lora.bytes / 1e6:.1f} MB{pair}", matrices, lora.base, fits]
        yield f"{lora.name}  {lora.kind}  {'; '.join(facts)}"
        if lora.usual_weight is not None:
            yield f"    usual weight: {lora.usual_weight:g}"
        if lora.trigger_words:
            yield f"    trigger words: {', '.join(lora.trigger_words)}"
        if lora.left_out:
            counts = counts_in_words(lora.left_out)
            yield f"    left out: {sum(lora.left_out.values())} keys for the image branch of Wan2.1-I2V ({counts})"
        if lora.problem:
            yield f"    problem: {lora.problem}"


def _range(ends: tuple[float, float]) -> str:
    return f"{ends[0]:g}" if ends[0] == ends[1] else f"{ends[0]:g} to {ends[1]:g}"


class ProgressLine:
    """A bar and a text on one line of standard error; draws nothing where that is no terminal, or a dumb one."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, markup=False)
        self._bar: Progress | None = None

    @property
    def drawable(self) -> bool:
        """Whether standard error is a terminal that can move its cursor, unlike that of Emacs (TERM=dumb)."""
        return self._console.is_terminal and not self._console.is_dumb_terminal

    def show(self, text: str, fraction: float | None = None) -> None:
        """Draw the line anew.

        Args:
            fraction: of the work, from 0 to 1; None where that is not known, which moves the bar to and fro.
        """
        if not self.drawable:
            return
        if self._bar is None:
            columns = SpinnerColumn(), BarColumn(BAR_WIDTH), TextColumn("{task.description}", markup=False)
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._bar.add_task(text, total=None)
            self._bar.start()
        (task,) = self._bar.task_ids
        total = None if fraction is None else 1.0
        self._bar.update(task, description=text, completed=fraction or 0.0, total=total)

    def clear(self) -> None:
        """Remove the line."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
