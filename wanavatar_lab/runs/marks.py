"""What a person notes of a run: whether it is a favourite, and tags. A file of the run's folder, marks.json.

    write_marks(run, Marks(favourite=True, tags=("ann", "lips")))

It is no part of the result: a run without one has no marks, and it moves with the folder.
"""

from collections.abc import Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from wanavatar_lab import files
from wanavatar_lab.errors import RunError
from wanavatar_lab.runs.run import Run

FILE = "marks.json"
LONGEST_TAG, MOST_TAGS = 40, 20


class Marks(BaseModel):
    """The marks of a run."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    favourite: bool = False
    tags: tuple[str, ...] = ()


def read_marks(run: Run) -> Marks:
    """The marks of a run; none where it has no file of them.

    Raises:
        RunError: the file is damaged, or may not be read.
    """
    path = run.folder / FILE
    try:
        return Marks.model_validate_json(files.read_file(path))
    except (FileNotFoundError, NotADirectoryError):
        return Marks()
    except (OSError, ValidationError) as error:
        raise RunError(f"{path} does not hold marks of a run. Correct it, or delete it.") from error


def write_marks(run: Run, marks: Marks) -> None:
    """Replace the marks of a run, whole or not at all.

    Raises:
        DiskFull: there is no room; the marks before stay.
        LabError: the folder is not writable.
    """
    path = run.folder / FILE
    with files.report_write_errors(path):
        files.write_json(path, marks.model_dump(mode="json"))


def marks_version(folder: Path) -> int:
    """When the marks of a run's folder were last written, in nanoseconds; 0 where there are none."""
    found = files.stat_if_possible(folder / FILE)
    return 0 if found is None else found.st_mtime_ns


def as_tags(texts: Iterable[str]) -> tuple[str, ...]:
    """Tags as they are kept: without outer and repeated spaces, each once in whatever case.

    Raises:
        RunError: one is too long, or there are too many.
    """
    tags: dict[str, str] = {}
    for text in texts:
        tag = " ".join(files.printable(text).split())
        if len(tag) > LONGEST_TAG:
            raise RunError(f"A tag has at most {LONGEST_TAG} characters (got {len(tag)}).")
        if tag:
            tags.setdefault(tag.casefold(), tag)
    if len(tags) > MOST_TAGS:
        raise RunError(f"A run has at most {MOST_TAGS} tags (got {len(tags)}).")
    return tuple(tags.values())
