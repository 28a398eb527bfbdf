"""A run is a folder: its request, its progress, its log, its artifacts, and how to reproduce them.

    <runs_dir>/<id>/request.json     the request
                    status.json      replaced whole at every change
                    log.txt          everything that the stage and its libraries print
                    manifest.json    when the run has ended, in whatever state
                    cancel           exists once cancellation is requested
                    marks.json       whether it is a favourite, and its tags (`runs/marks.py`)
                    preview.webp     an intermediate result, while the stage runs
                    .settings.json   the settings of the client that submitted it, until it ends
                    .inputs/         copies of its input files, until it ends (`runs/inputs.py`)
                    ...              the artifacts; talking.partial.mp4 is what was finished when the run ended early

A name that begins with a dot is not part of the result: a draft, a half-written file, reserved blocks, settings.
"""

import itertools
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from wanavatar_lab import files, locks
from wanavatar_lab.errors import LabError, RunError, RunsAway
from wanavatar_lab.requests import STAGE_REQUESTS, Request
from wanavatar_lab.requests.custom_stages import extra_module
from wanavatar_lab.runs.inputs import keep_inputs
from wanavatar_lab.runs.reserved_space import reserve
from wanavatar_lab.runs.status import Artifact, Status
from wanavatar_lab.settings import Settings, read_settings

RUN_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{4}-[a-z][a-z0-9_]*")
PREVIEW = "preview.webp"
CANCEL_NOW = "now"  # in the file cancel: kill the worker without waiting for the stage
_DRAFT = ".new-"  # before the id in a folder's name until the run is complete
_LOCK = ".draft"  # in a draft: held by the client that writes it, until it is complete
_STALE = 60.0  # seconds until a draft that nobody holds is removed; making its folder and its lock takes far less
_LONGEST_TAIL = 256 * 1024  # bytes at the end of a log that are searched for its last lines: hundreds of long ones

_log = logging.getLogger(__name__)
_reported: set[Path] = set()


@dataclass(frozen=True)
class Run:
    """One run, by its folder. Nothing is kept in memory: every call reads what is on disk now."""

    folder: Path

    @property
    def id(self) -> str:
        """Sortable by the time of submission (UTC), unique in its runs folder."""
        return self.folder.name.removeprefix(_DRAFT)

    @property
    def stage(self) -> str:
        """The stage, from the id."""
        return self.id.split("-", 3)[3]

    @classmethod
    def create(cls, request: Request, *, runs_dir: Path | str | None = None) -> "Run":
        """Make the folder of a new run, whole or not at all. It is not queued: see `jobs.submit` for that.

        Raises:
            DiskFull: there is no room; nothing is left behind.
            LabError: the runs folder is not writable.
        """
        with draft(request, runs_folder(runs_dir), Status(submitted_at=time.time())) as drafted:
            return drafted.publish()

    @classmethod
    def open(cls, run_id: str, *, runs_dir: Path | str | None = None) -> "Run":
        """The run of that id.

        Raises:
            RunError: there is none.
        """
        root = runs_folder(runs_dir)
        if not RUN_ID.fullmatch(run_id) or not (root / run_id / "status.json").exists():
            raise RunError(f"There is no run {run_id!r} in {root}; `wanavatar-lab runs` lists them.")
        return cls(root / run_id)

    def publish(self) -> "Run":
        """Give a draft its name; from then on it is listed."""
        run = Run(self.folder.with_name(self.id))
        self.folder.rename(run.folder)
        (run.folder / _LOCK).unlink(missing_ok=True)
        return run

    def request(self) -> Request:
        """The request.

        Raises:
            RunError: the file is damaged.
            RequestError: its stage is unknown, or it does not fit this release.
        """
        values = self.read_json("request.json")
        if values.get("stage") not in STAGE_REQUESTS:
            extra_module(str(values.get("stage")))
        return Request.from_json(values)

    def repeatable_request(self) -> Request:
        """The request with the seed that was used, also where it was drawn: running it again makes the same.

        Raises:
            RunError: the request or the status is damaged.
            RequestError: its stage is unknown, or it does not fit this release.
        """
        request, seed = self.request(), self.status().seed
        return request if seed is None or "seed" not in type(request).model_fields else request.changed(seed=seed)

    def status(self) -> Status:
        """The status as last written. `jobs.Job.status` also detects a dead worker, and adds the place in the queue.

        Raises:
            RunError: the file is damaged, or the folder is a link: what it points to is never changed through it.
            RunsAway: the runs folder is not there now.
        """
        path = self.folder / "status.json"
        if self.folder.is_symlink():
            raise RunError(f"{self.folder} is a link, and links are not followed. Move the run's folder there instead.")
        try:
            return Status.model_validate_json(files.read_file(path)).within(self.folder)
        except (FileNotFoundError, NotADirectoryError) as error:
            check_there(self.folder.parent)
            raise RunError(f"There is no run in {self.folder}: it has no status.json.") from error
        except OSError as error:
            check_there(self.folder.parent)
            raise RunError(f"{path} cannot be read: {error.strerror}.") from error
        except ValidationError as error:
            raise RunError(f"{path} is not the status of a run. Delete the folder if you do not need it.") from error

    def readable_status(self) -> Status | None:
        """The status as last written; None if the run is gone or damaged."""
        try:
            return self.status()
        except RunError:
            return None

    def write_status(self, status: Status, *, sync: bool = True) -> None:
        """Replace the status; with `sync`, so that a power cut does not undo it. The last one is `finish_run`'s.

        Raises:
            DiskFull: there is no room; the previous status stays.
        """
        path = self.folder / "status.json"
        with files.report_write_errors(path), files.whole_file(path, durable=sync) as temporary:
            temporary.write_text(status.model_dump_json(indent=2) + "\n", encoding="utf-8")

    def write_settings(self, settings: Settings) -> None:
        """Record the settings to execute this run with: those of the client that submits it."""
        # the worker has a working folder of its own
        folders = {name: getattr(settings, name).absolute() for name in ("weights_dir", "cache_dir")}
        settings = settings.model_copy(update=folders)
        files.write_json(self.folder / ".settings.json", settings.model_dump(mode="json"))

    def settings(self) -> Settings:
        """The settings to execute this run with; this process's where the run was not submitted with its own.

        Raises:
            RunError: the file is damaged, or of a release with other settings.
        """
        path = self.folder / ".settings.json"
        try:
            return Settings.model_validate(json.loads(files.read_file(path)))
        except FileNotFoundError:
            return read_settings()
        except (OSError, ValueError) as error:
            raise RunError(f"{path} does not hold this release's settings; submit the run again.") from error

    def was_submitted(self) -> bool:
        """Whether a run that has not ended was submitted, and so belongs in the queue."""
        return (self.folder / ".settings.json").exists()

    def log_tail(self, lines: int = 50) -> str:
        """The last lines of the log; of a progress bar that overwrites itself only its last state.

        Raises:
            OSError: there is no log, or it cannot be read.
        """
        text = files.read_file(self.folder / "log.txt", last=_LONGEST_TAIL).decode("utf-8", errors="replace")
        last = [line.rstrip("\r").rpartition("\r")[2] for line in text.replace("\r\n", "\n").rstrip("\n").split("\n")]
        return "\n".join(last[-lines:])

    def manifest(self) -> dict[str, Any]:
        """Everything needed to reproduce the result.

        Raises:
            RunError: the run has not ended, or the file is damaged.
        """
        if not (self.folder / "manifest.json").exists():
            raise RunError(f"The run {self.id} has no manifest yet; it gets one when it ends.")
        return self.read_json("manifest.json")

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """The state, what was made, and the request; of a run that is gone or damaged, that it is."""
        from wanavatar_lab.runs.display import run_bundle

        return run_bundle(self, self.status)

    def path(self, artifact: Artifact) -> Path:
        """The file of an artifact."""
        return self.folder / artifact.file

    def request_cancel(self, *, now: bool = False) -> None:
        """Request cancellation, which the executing process checks for; with `now` the worker is killed."""
        path = self.folder / "cancel"
        with files.report_write_errors(path):
            path.write_text(CANCEL_NOW if now else "", encoding="utf-8")

    def cancel_requested(self, *, now: bool = False) -> bool:
        """Whether cancellation is requested; with `now`, whether without waiting for the stage."""
        try:
            word = files.read_file(self.folder / "cancel").decode("utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            if not os.path.exists(self.folder / "cancel"):  # its disk is not connected now
                return False
            word = ""  # its existence is the request, whatever it is
        return not now or word == CANCEL_NOW

    def held(self) -> AbstractContextManager[None]:
        """Hold the run's lock while executing it; the system releases it when the process dies, however it dies."""
        return locks.locked(self.folder / "log.txt")

    def is_held(self) -> bool:
        """Whether a process is executing the run now."""
        return locks.is_locked(self.folder / "log.txt")

    def read_json(self, name: str) -> dict[str, Any]:
        """The contents of one of the run's JSON files, unchecked.

        Raises:
            RunError: it is missing or damaged.
        """
        path = self.folder / name
        try:
            values = json.loads(files.read_file(path))
        except (OSError, ValueError, RecursionError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error
        if not isinstance(values, dict):
            raise RunError(f"{path} should hold a JSON object and holds a {type(values).__name__}.")
        return values


def runs_folder(runs_dir: Path | str | None = None) -> Path:
    """The folder of all runs, absolute: the one given, or the one of the settings."""
    return Path(read_settings().runs_dir if runs_dir is None else runs_dir).absolute()


def check_there(root: Path) -> None:
    """Look whether a folder of runs is there, and not on a disk that is not connected now.

    Raises:
        RunsAway: it is missing, or cannot be read.
    """
    try:
        os.scandir(root).close()
    except OSError as error:
        raise RunsAway(
            f"The runs folder {root} cannot be read now ({error.strerror}). Connect its disk again, or check its "
            "permissions."
        ) from error


def is_there(root: Path) -> bool:
    """Whether a folder of runs is there, and not on a disk that is not connected now."""
    try:
        check_there(root)
    except RunsAway:
        return False
    return True


def list_runs(runs_dir: Path | str | None = None) -> list[Run]:
    """All runs, newest first.

    A run that is damaged or was renamed is left out, with one warning in the log of this process; other folders, such
    as `runs/demo` and those of trainings, are passed over.
    """
    root = runs_folder(runs_dir)
    found: list[tuple[float, Path]] = []
    for folder in files.entries(root):
        if folder.name.startswith(".") or not os.path.isdir(folder):
            continue
        named = RUN_ID.fullmatch(folder.name) is not None
        if not named and not (folder / "request.json").exists():
            continue
        try:
            if not named:
                raise RunError(f"{folder} holds a run and is not named like one; give it the id in its manifest.json.")
            found.append((Run(folder).status().submitted_at or 0.0, folder))
        except LabError as error:
            # one that was deleted since the listing is no damaged one
            if folder not in _reported and os.path.isdir(folder):
                _reported.add(folder)
                _log.warning("Left out: %s", error)
    return [Run(folder) for _, folder in sorted(found, reverse=True)]


@contextmanager
def draft(request: Request, root: Path, status: Status) -> Iterator[Run]:
    """A new run under a hidden name, complete but for `Run.publish`; without that it is removed at the exit.

    Args:
        status: its first; `submitted_at` must be set, since it becomes part of the id.

    Raises:
        DiskFull: there is no room; nothing is left behind.
        RequestError: an input file is being written to.
        LabError: the runs folder is not writable.
    """
    when = time.strftime("%Y%m%d-%H%M%S", time.gmtime(status.submitted_at))
    # four digits for the fraction of the second: ids sort as runs were submitted
    fraction = int((status.submitted_at or 0.0) % 1 * 0x10000)
    with files.report_write_errors(root / "a new run"):
        root.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(fraction):
            run_id = f"{when}-{number % 0x10000:04x}-{request.stage}"
            folder = root / f"{_DRAFT}{run_id}"
            with suppress(FileExistsError):
                folder.mkdir()
                # checked after the draft's name is taken, so that two clients cannot both find the id free
                if not (root / run_id).exists():
                    break
                folder.rmdir()
        run, lock = Run(folder), None
        try:
            lock = locks.take(folder / _LOCK, wait=False)
            files.write_json(folder / "request.json", request.to_json())
            keep_inputs(request, folder)
            run.write_status(status)
            (folder / "log.txt").touch()
            reserve(folder)
            yield run
        finally:
            files.remove(folder)
            if lock is not None:
                locks.drop(lock)


def remove_stale_drafts(root: Path) -> None:
    """Remove drafts whose client died before it published them, a minute ago or more."""
    for path in files.entries(root, f"{_DRAFT}*"):
        # not one that its client has published meanwhile, nor one that it still writes
        held = os.path.isfile(path / _LOCK) and locks.is_locked(path / _LOCK)
        if files.is_older(path, _STALE) and not held:
            files.remove_if_possible(path)
