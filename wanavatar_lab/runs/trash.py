"""Delete a run so that it can be restored: its folder moves to a hidden one beside the runs, whole or not at all.

    <runs_dir>/.trash/<id>/          a deleted run, as it was
                      .gone-<id>/    one that is being removed permanently

Runs that were deleted more than `KEPT` ago are removed permanently when the next run is deleted.
"""

import os
from contextlib import suppress
from pathlib import Path

from wanavatar_lab.errors import RunError
from wanavatar_lab.files import entries, is_older, remove_if_possible, report_write_errors, sync
from wanavatar_lab.runs.run import RUN_ID, Run, runs_folder

KEPT = 7 * 24 * 3600.0  # seconds: time enough to notice a mistake, short enough that videos do not fill the disk
_TRASH, _GONE = ".trash", ".gone-"


def discard(run: Run) -> None:
    """Delete a run that has ended; `restore` brings it back.

    Runs that took a file of it as their input keep their results, and their manifests still describe the input.

    Raises:
        RunError: it is queued or running, or is gone.
        LabError: the runs folder is not writable.
    """
    if not run.status().ended or run.is_held():
        raise RunError(f"The run {run.id} has not ended; cancel it before deleting it.")
    root = run.folder.parent
    with report_write_errors(run.folder):
        (root / _TRASH).mkdir(exist_ok=True)
        empty(root, older_than=KEPT)
        os.utime(run.folder)  # the time of deletion; written first, so that it is never kept too short
        run.folder.rename(root / _TRASH / run.id)
        _make_durable(root)


def restore(run_id: str, *, runs_dir: Path | str | None = None) -> Run:
    """Bring a deleted run back.

    Raises:
        RunError: it is not among the deleted ones (any more).
        LabError: the runs folder is not writable.
    """
    root = runs_folder(runs_dir)
    if run_id not in discarded(root):
        raise RunError(
            f"There is no deleted run {run_id!r} in {root / _TRASH}; they are kept for {KEPT / 86400:g} days."
        )
    with report_write_errors(root / run_id):
        (root / _TRASH / run_id).rename(root / run_id)
        _make_durable(root)
    return Run(root / run_id)


def discarded(runs_dir: Path | str | None = None) -> list[str]:
    """The ids of all runs that can be restored, newest first."""
    trash = runs_folder(runs_dir) / _TRASH
    return [path.name for path in reversed(entries(trash)) if RUN_ID.fullmatch(path.name)]


def empty(runs_dir: Path | str | None = None, *, older_than: float = 0.0) -> list[str]:
    """Remove deleted runs permanently.

    Args:
        older_than: seconds since they were deleted.

    Returns:
        Their ids.
    """
    trash = runs_folder(runs_dir) / _TRASH
    removed = []
    for path in reversed(entries(trash)):
        if RUN_ID.fullmatch(path.name) and is_older(path, older_than):
            # gone if another process has restored it, or removes it too
            with suppress(FileNotFoundError):
                path.rename(trash / f"{_GONE}{path.name}")  # so that half a run is never restored
                removed.append(path.name)
    for path in entries(trash, f"{_GONE}*"):
        remove_if_possible(path)
    return removed


def _make_durable(root: Path) -> None:
    sync(root / _TRASH)
    sync(root)
