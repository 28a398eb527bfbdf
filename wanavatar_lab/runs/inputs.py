"""The input files of a run, as they were when it was submitted.

    <run>/.inputs/inputs.json       each file's name, size and SHA-256, by field
                  <field>/<name>    a copy

While a run waits, or loads its models, a program may write the next sentence to the same out.wav. So a run reads a
copy, which is removed when it ends. On disks that share blocks (Btrfs, XFS, bcachefs) a copy takes no room; on others,
files of more than `LARGEST_COPY` bytes and weights are not copied, but compared before and after they are read: the run
fails if they have changed. A hard link would not do, because programs write into the file that is there.
"""

import fcntl
import json
import os
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from wanavatar_lab.errors import RequestError
from wanavatar_lab.files import printable, read_file, report_write_errors, sha256_of, sync, write_json
from wanavatar_lab.requests import Request, fields_of

FOLDER = ".inputs"
LARGEST_COPY = 256 * 1024**2  # bytes: any picture and hours of speech, copied in less than a second
_LOOKS = 3  # at a file that changes while it is read
_FICLONE = 0x40049409  # of Linux: let a file share the blocks of another


class InputFile(BaseModel):
    """One input file.

    Attributes:
        name: without its folder.
        bytes: its size.
        sha256: of its contents, in hexadecimal.
        state: what changes when it is written to: size, times of modification and change in ns, inode.
        copied: whether the run has a copy.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    name: str
    bytes: int
    sha256: str
    state: tuple[int, int, int, int]
    copied: bool

    def facts(self) -> dict[str, object]:
        """What the manifest says of it."""
        return {"bytes": self.bytes, "sha256": self.sha256, "modified_at": _modified_at(self.state[1])}


_BY_FIELD = TypeAdapter(dict[str, InputFile])


def keep_inputs(request: Request, folder: Path) -> None:
    """Record the input files of `request`, whose paths are absolute, in the folder of its run.

    A file that is missing is left to `Request.check_inputs`.

    Raises:
        RequestError: a file is being written to.
        DiskFull: there is no room for a copy.
    """
    views = fields_of(type(request))
    found = {
        name: _keep(name, path, folder / FOLDER / name, copy=views[name].widget != "weights")
        for name, path in request.input_files().items()
        if os.path.isfile(path)
    }
    if found:
        (folder / FOLDER).mkdir(exist_ok=True)
        write_json(folder / FOLDER / "inputs.json", {name: one.model_dump() for name, one in found.items()})


def _keep(field: str, path: Path, place: Path, *, copy: bool) -> InputFile:
    for _ in range(_LOOKS):
        before = _state(path)
        copied = copy and _copy(path, place / path.name)
        sha256 = sha256_of(place / path.name if copied else path)
        if _state(path) == before:
            # a model would not hold the bytes of a name that is no Unicode
            return InputFile(name=printable(path.name), bytes=before[0], sha256=sha256, state=before, copied=copied)
    raise RequestError([(field, f"{str(path)!r} is being written to; submit it when it is complete")])


def _copy(path: Path, copy: Path) -> bool:
    """Copy a file, unless it is large and its disk does not share blocks."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    with report_write_errors(copy), open(path, "rb") as source, open(copy, "wb") as target:
        if not _share_blocks(source.fileno(), target.fileno()):
            if os.fstat(source.fileno()).st_size > LARGEST_COPY:
                copy.unlink()
                return False
            shutil.copyfileobj(source, target, 1024**2)
    sync(copy)
    return True


def _share_blocks(source: int, target: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:  # one of many numbers, by kind of disk
        return False
    return True


def read_inputs(folder: Path) -> dict[str, InputFile]:
    """What `keep_inputs` has recorded, by field, while the run has not ended; nothing for a run without files."""
    try:
        return _BY_FIELD.validate_json(read_file(folder / FOLDER / "inputs.json"))
    except (OSError, ValueError):
        return {}


def as_submitted(request: Request, folder: Path) -> Request:
    """The request with the paths of the files to read: of the run's copies, or of files that have not changed.

    Raises:
        RequestError: a file that was not copied has changed.
    """
    kept = read_inputs(folder)
    check_unchanged(request, folder)
    files = request.input_files()
    copies = {name: folder / FOLDER / name / files[name].name for name, one in kept.items() if one.copied}
    return request.changed(**{name: str(copy) for name, copy in copies.items() if copy.is_file()})


def check_unchanged(request: Request, folder: Path) -> None:
    """Compare the files of which the run has no copy with what they were.

    Raises:
        RequestError: one has changed, or is gone.
    """
    paths = request.input_files()
    problems = [
        (name, f"{str(paths[name])!r} is not the file any more that it was when the run was submitted; submit it again")
        for name, one in read_inputs(folder).items()
        if not one.copied and not _is_same(one, paths[name])
    ]
    if problems:
        raise RequestError(problems)


def name_originals(text: str, folder: Path) -> str:
    """A message with the paths of the user's files, in place of those of the run's copies."""
    if str(folder / FOLDER) in text and (kept := read_inputs(folder)):
        request = json.loads(read_file(folder / "request.json"))
        for name in kept:
            text = text.replace(str(folder / FOLDER / name / Path(request[name]).name), request[name])
    return text


def changed_since(request: Request, manifest: dict[str, object]) -> list[str]:
    """The names of input files that are not what they were in a run of this request, by its manifest.

    Files that are gone are left to `Request.check_inputs`.
    """
    noted = manifest.get("inputs")
    changed = []
    for name, path in request.input_files().items():
        one = noted.get(name, {}) if isinstance(noted, dict) else {}
        if "sha256" in one and os.path.isfile(path):
            found = path.stat()
            same = found.st_size == one.get("bytes") and (
                _modified_at(found.st_mtime_ns) == one.get("modified_at") or sha256_of(path) == one["sha256"]
            )
            if not same:
                changed.append(path.name)
    return changed


def _modified_at(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / 1e9, UTC).isoformat(timespec="microseconds")


def _is_same(one: InputFile, path: Path) -> bool:
    try:
        now = _state(path)
        # a copy or a move of the file, or one that was written anew as it was, is the same
        return now == one.state or (now[0] == one.bytes and sha256_of(path) == one.sha256)
    except OSError:
        return False


def _state(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
