"""All runs as a table: a row per run, with its request's fields in columns, to sort, filter and plot.

from wanavatar_lab import runs
runs.table().query("stage == 'speech_to_video' and state == 'succeeded'")[["guidance_scale", "seconds", "result"]]
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import LabError, RunError
from wanavatar_lab.requests import STAGE_REQUESTS
from wanavatar_lab.runs.marks import Marks, read_marks
from wanavatar_lab.runs.run import Run, list_runs
from wanavatar_lab.runs.status import Status

COLUMNS = ("id", "stage", "state", "submitted", "seconds", "memory_bytes", "result", "error", "favourite", "tags")
NEEDS_PANDAS = (
    "runs.table() makes a DataFrame of pandas, which is not installed: .venv/bin/uv pip install pandas. "
    "runs.records() has the same rows as plain dicts."
)


def table(runs_dir: Path | str | None = None) -> Any:
    """A pandas DataFrame of all runs, newest first, with the columns of `records`; the index is the run's id.

    Raises:
        LabError: pandas is not installed; the text says how to install it.
    """
    try:
        import pandas  # type: ignore[import-untyped,import-not-found,unused-ignore]  # only a few users need it
    except ModuleNotFoundError as error:
        raise LabError(NEEDS_PANDAS) from error
    found = records(runs_dir)
    return pandas.DataFrame(found, columns=None if found else list(COLUMNS)).set_index("id")


def records(runs_dir: Path | str | None = None) -> list[dict[str, Any]]:
    """A dict per run, newest first: `COLUMNS`, then every field of its request, as JSON types.

    `submitted` is a `datetime` in UTC, `seconds` are from the start to the end, `memory_bytes` is the peak, `result` is
    the absolute path of the main artifact and `seed` the one that was used; None where there is none (yet). `tags` is a
    list.
    """
    return [_record(run, run.status()) for run in list_runs(runs_dir)]


def _record(run: Run, status: Status) -> dict[str, Any]:
    error = status.error
    try:
        fields = run.read_json("request.json")
    except RunError as fault:  # the row stays, and says what is missing of it
        fields, error = {}, error or str(fault)
    try:
        marks = read_marks(run)
    except RunError as fault:
        marks, error = Marks(), error or str(fault)
    known = STAGE_REQUESTS.get(run.stage)
    kind = known.artifact if known else ""
    made = [artifact.path for artifact in status.artifacts if kind in ("", artifact.kind)]
    done = status.started_at is not None and status.finished_at is not None
    values: tuple[Any, ...] = (
        run.id,
        run.stage,
        status.state,
        None if status.submitted_at is None else datetime.fromtimestamp(status.submitted_at, UTC),
        (status.finished_at or 0.0) - (status.started_at or 0.0) if done else None,
        status.memory_bytes,
        made[0] if made else None,
        error,
        marks.favourite,
        list(marks.tags),
    )
    row = dict(zip(COLUMNS, values, strict=True)) | {name: fields[name] for name in fields if name not in COLUMNS}
    if "seed" in row and status.seed is not None:
        row["seed"] = status.seed
    return row
