"""Finish a run: what is finished of a video is kept, other half-written files are removed, the manifest and the last
status are written, in that order.

The steps are the same for the process that executed the run, the supervisor that saw its worker die, and a client
that found both gone.
"""

import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wanavatar_lab.files import entries, printable, remove_if_possible
from wanavatar_lab.requests import STAGE_REQUESTS
from wanavatar_lab.runs import reserved_space
from wanavatar_lab.runs.inputs import read_inputs
from wanavatar_lab.runs.manifest import Record, build_manifest
from wanavatar_lab.runs.run import PREVIEW, Run
from wanavatar_lab.runs.status import PARTIAL, Artifact, State, Status


def finish_run(
    run: Run,
    state: State,
    *,
    error: str | None = None,
    artifacts: Sequence[Artifact] = (),
    last: Status | None = None,
    record: Record | None = None,
) -> Status:
    """Finish `run` in `state`. A reader that sees that state finds the manifest written.

    Args:
        error: for a failed run, why, and what to do.
        artifacts: what it made; must exist.
        last: the status before, if it is known better than what is on disk.
        record: what the executing process knows.

    Raises:
        DiskFull: no room, not even in the reserved blocks. The run then has the state it had.
    """
    inputs = read_inputs(run.folder)
    parts, kept = _keep_partial(run) if state != "succeeded" else ([], "")
    remove_scratch(run.folder)
    kept = kept and f".{kept}"  # of the error, or of what was done last
    error = None if error is None else printable(error)
    # a damaged status, perhaps by what made the run end, does not keep it from being finished
    last = last or run.readable_status() or Status()
    if error and kept:
        error = error.rstrip(".") + kept
    at = f" at {last.message}" if last.state == "running" and last.message else ""
    status = last.model_copy(
        update={
            "state": state,
            "message": {"failed": error or "failed", "cancelled": f"cancelled{at}{kept}"}.get(state, "done"),
            "error": error,
            "artifacts": [*artifacts, *parts],
            "finished_at": time.time(),
            "fraction": 1.0 if state == "succeeded" else last.fraction,
            "eta_seconds": None,
            "queue_place": None,
        }
    )
    path = run.folder / "manifest.json"
    try:
        reserved_space.write_last(path, _json(build_manifest(run, status, record or Record(), inputs)))
    except Exception as fault:  # noqa: BLE001  a run has to end, also with an artifact gone or facts that are no JSON
        # where the disk is full, the manifest was longer than the reserved blocks; a short one records that
        short = {"id": run.id, "state": state, "error": error, "seed": status.seed}
        reserved_space.write_last(path, _json({**short, "incomplete": f"{type(fault).__name__}: {fault}"}))
    reserved_space.write_last(run.folder / "status.json", status.model_dump_json(indent=2) + "\n")
    return status.within(run.folder)


def partial_file(folder: Path, name: str) -> Path:
    """Where a stage writes the video `name` until it is whole, so that `finish_run` finds what there is of it."""
    path = folder / name
    return path.with_name(f".{path.stem}.{PARTIAL}{path.suffix}")


def _keep_partial(run: Run) -> tuple[list[Artifact], str]:
    """Artifacts of what was finished of the videos of a run that has ended early, and a sentence that says so."""
    artifacts, said = [], ""
    # hidden ones, and those that lost this in a process which was killed as it finished the run
    for found in entries(run.folder, f"*.{PARTIAL}.mp4"):
        from wanavatar_lab.media import keep_partial  # takes half a second, and few runs end so

        path = found.with_name(found.name.removeprefix("."))
        try:
            seconds = keep_partial(found, path)
        except Exception as fault:  # noqa: BLE001  a run has to end, also where its partial file is damaged
            said += f" What was finished of it could not be kept ({fault})."
            continue
        if seconds:
            stage = STAGE_REQUESTS.get(run.stage)
            artifacts.append(Artifact(kind=stage.artifact if stage else "video", path=path.name, role=PARTIAL))
            said += f" Its first {float(seconds):.2f} s are finished and kept in {path}."
    return artifacts, said


def remove_scratch(folder: Path) -> None:
    """Remove the preview, and every hidden file or folder: by convention, nothing else is ever half-written."""
    remove_if_possible(folder / PREVIEW)
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent) / name for name in [*files, *folders] if name.startswith(".")):
            if not reserved_space.is_reserved_space(path):
                remove_if_possible(path)


def _json(manifest: dict[str, Any]) -> str:
    # a stage may record a path or a number of another library, which JSON does not know but text does
    return json.dumps(manifest, indent=2, ensure_ascii=False, default=str) + "\n"
