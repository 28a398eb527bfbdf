"""The files that a chain made, put where they are wanted."""

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from wanavatar_lab.chain.follow import Made
from wanavatar_lab.errors import DiskFull, LabError
from wanavatar_lab.files import whole_file


def make_folder(out: Path | str) -> Path:
    """The folder for results, made if it is not there; before the work, since afterwards is late to hear of it.

    Returns:
        Its absolute path.

    Raises:
        LabError: it cannot be made, or cannot be written to.
    """
    folder = Path(out).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"out: {str(out)!r} cannot be made ({error.strerror}); give a folder.") from error
    if not os.access(folder, os.W_OK):
        raise LabError(f"out: the folder {str(out)!r} cannot be written to; give another one.")
    return Path(os.path.normpath(folder))


def hand_over(made: Sequence[Made], folder: Path) -> list[Path]:
    """Copy the results into `folder`: all of them, or none, so that what lies there belongs together.

    Raises:
        DiskFull: there is no room; what lay there before still does.
        LabError: one cannot be written there.
    """
    # each context renames its file when the stack is left, which is when every copy is whole
    try:
        with ExitStack() as stack:
            for one in made:
                temporary = stack.enter_context(whole_file(folder / one.link.file))
                shutil.copyfile(one.path, temporary)
    except DiskFull as error:
        places = ", ".join(str(one.path.parent) for one in made)
        raise DiskFull(f"There is no room for the results in {folder}. Free some; they lie in {places}.") from error
    except OSError as error:
        raise LabError(f"The results could not be written to {folder} ({error.strerror}).") from error
    return [folder / one.link.file for one in made]
