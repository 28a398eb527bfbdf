"""`samples.json`, the list of a folder's encoded samples; `training.data.samples` reads their tensors."""

import json
from dataclasses import dataclass
from pathlib import Path

from wanavatar_lab.errors import LabError

LIST = "samples.json"


@dataclass(frozen=True)
class Entry:
    """One sample.

    Attributes:
        name: of its file, without the suffix.
        clip: the clip that it was cut from.
        held_out: whether it is used for validation only.
        bucket: the shapes of its tensors, as text; all samples of a batch have the same.
    """

    name: str
    clip: str
    held_out: bool
    bucket: str


def listed_in(folder: Path) -> list[Entry]:
    """All samples of a folder; none where there is no list.

    Raises:
        LabError: the list cannot be read.
    """
    if not (folder / LIST).is_file():
        return []
    try:
        return [Entry(**entry) for entry in json.loads((folder / LIST).read_text())]
    except (ValueError, TypeError) as error:
        raise LabError(f"{folder / LIST} cannot be read ({error}). Encode the data again.") from error


def entries_of(folder: Path, held_out: bool = False) -> list[Entry]:
    """The samples of a folder that are held out, or the others.

    Raises:
        LabError: the folder has no list, or the list cannot be read.
    """
    if not (folder / LIST).is_file():
        raise LabError(f"There are no encoded samples in {folder}. Encode a data folder with training.encode.")
    return [entry for entry in listed_in(folder) if entry.held_out == held_out]
