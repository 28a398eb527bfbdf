"""Delete a run so that it can be brought back: its folder moves to a hidden one beside the runs, whole or not at all.

    <runs_dir>/.trash/<id>/          a deleted run, as it was
                      .gone-<id>/    one that is being removed for good

What was deleted more than `KEPT` ago is removed for good when the next run is deleted.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from wanavatar_lab.errors import RunError
from wanavatar_lab.files import Entry, entries, remove_if_possible, sync
from wanavatar_lab.runs.run import RUN_ID, Run, runs_folder

KEPT = 7 * 24 * 3600.0  # seconds
_TRASH, _GONE = ".trash", ".gone-"


def discard(run: Run) -> None:
    """Delete a run that has ended; `restore` brings it back.

    Runs that took a file of it as their input keep their results, and their manifests say what it was.

    Raises:
        RunError: it waits or is being executed, or is gone.
    """
    if not run.status().ended or run.is_held():
        raise RunError(f"The run {run.id} has not ended; cancel it before deleting it.")
    trash = run.folder.parent / _TRASH
    trash.mkdir(exist_ok=True)
    empty(run.folder.parent, older_than=KEPT)
    os.utime(run.folder)  # when it was deleted; written first, so that it is never kept too short
    run.folder.rename(trash / run.id)
    _make_durable(run.folder.parent)


def restore(run_id: str, *, runs_dir: Path | str | None = None) -> Run:
    """Bring a deleted run back.

    Raises:
        RunError: it is not among the deleted ones (any more).
    """
    root = runs_folder(runs_dir)
    if run_id not in discarded(root):
        raise RunError(
            f"There is no deleted run {run_id!r} in {root / _TRASH}; they are kept for {KEPT / 86400:g} days."
        )
    (root / _TRASH / run_id).rename(root / run_id)
    _make_durable(root)
    return Run(root / run_id)


def discarded(runs_dir: Path | str | None = None) -> list[str]:
    """The ids of all runs that can be brought back, newest first."""
    trash = runs_folder(runs_dir) / _TRASH
    return [entry.name for entry in reversed(entries(trash)) if RUN_ID.fullmatch(entry.name)]


def empty(runs_dir: Path | str | None = None, *, older_than: float = 0.0) -> list[str]:
    """Remove deleted runs for good.

    Args:
        older_than: seconds since they were deleted.

    Returns:
        Their ids.
    """
    trash = runs_folder(runs_dir) / _TRASH
    now, removed = time.time(), []
    for run_id in discarded(runs_dir):
        folder = trash / run_id
        deleted_at = Entry(folder).changed_at()
        if deleted_at is None or now - deleted_at < older_than:
            continue
        # gone if another process has restored it, or removes it too
        with suppress(FileNotFoundError):
            folder.rename(trash / f"{_GONE}{run_id}")  # so that half a run is never brought back
            removed.append(run_id)
    for entry in entries(trash, f"{_GONE}*"):
        remove_if_possible(entry.path)
    return removed


def _make_durable(root: Path) -> None:
    sync(root / _TRASH)
    sync(root)
