"""How a run ends: half-written files go, the manifest and the last status are written, in that order.

The same steps whoever takes them: the process that executed the run, the supervisor that saw its worker die, or a client
that found both gone.
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import RunError
from wanavatar_lab.files import remove_if_possible
from wanavatar_lab.runs import reserved_space
from wanavatar_lab.runs.manifest import Record, build_manifest
from wanavatar_lab.runs.run import PREVIEW, Run
from wanavatar_lab.runs.status import Artifact, State, Status


def finish_run(
    run: Run,
    state: State,
    *,
    error: str | None = None,
    artifacts: Sequence[Artifact] = (),
    last: Status | None = None,
    record: Record | None = None,
) -> Status:
    """End `run` in `state`. Whoever reads that state finds the manifest written.

    Args:
        error: for a failed run, why, and what to do.
        artifacts: what it made; must be there.
        last: the status before, if it is known better than what is on disk.
        record: what the executing process knows.

    Raises:
        DiskFull: no room, not even where blocks were set aside. The run then has the state it had.
    """
    _remove_scratch(run.folder)
    status = _ended(last or _last_status(run), state, error, artifacts)
    _write_manifest(run, status, record or Record())
    reserved_space.write_last(run.folder / "status.json", status.model_dump_json(indent=2) + "\n")
    return status


def _last_status(run: Run) -> Status:
    try:
        return run.status()
    except RunError:
        # damaged by whatever made it end; what it was cannot be known, and the ending is what matters
        return Status()


def _ended(last: Status, state: State, error: str | None, artifacts: Sequence[Artifact]) -> Status:
    where = f" at {last.message}" if last.state == "running" and last.message else ""
    message = {"failed": error or "failed", "cancelled": f"cancelled{where}"}.get(state, "done")
    return last.model_copy(
        update={
            "state": state,
            "message": message,
            "error": error,
            "artifacts": list(artifacts),
            "finished_at": time.time(),
            "fraction": 1.0 if state == "succeeded" else last.fraction,
            "eta_seconds": None,
            "queue_place": None,
        }
    )


def _write_manifest(run: Run, status: Status, record: Record) -> None:
    path = run.folder / "manifest.json"
    short = {"id": run.id, "state": status.state, "error": status.error, "seed": status.seed}
    try:
        reserved_space.write_last(path, _json(build_manifest(run, status, record)))
    except Exception as error:  # noqa: BLE001  a run has to end, also with an artifact gone or facts that are no JSON
        # where the disk is full, it was too long for the blocks set aside; that it is cut is said where one looks
        reserved_space.write_last(path, _json({**short, "incomplete": f"{type(error).__name__}: {error}"}))


def _json(manifest: dict[str, Any]) -> str:
    # a stage may record a path or a number of another library, which JSON does not know but text does
    return json.dumps(manifest, indent=2, ensure_ascii=False, default=str) + "\n"


def _remove_scratch(folder: Path) -> None:
    """Remove the preview, and what has a hidden name: by the house's rule, nothing else may be half-written."""
    remove_if_possible(folder / PREVIEW)
    for parent, folders, files in os.walk(folder):
        for name in files:
            path = Path(parent) / name
            if name.startswith(".") and not reserved_space.is_reserved_space(path):
                remove_if_possible(path)
        for name in [name for name in folders if name.startswith(".")]:
            remove_if_possible(Path(parent) / name)
            folders.remove(name)
