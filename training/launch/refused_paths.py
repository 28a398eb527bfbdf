"""What the system says of a path that may not be read or written, in words for the user."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import LabError
from wanavatar_lab.files import NO_FOLDER, NOT_WRITABLE

_RUST_ERROR = re.compile(r"\(os error (\d+)\) at path \"(.+)\"")  # as safetensors has it in its errors' text


@contextmanager
def report_refused_paths() -> Iterator[None]:
    """Raise our error where the system does not let a path be read or written, as on a read-only disk.

    Raises:
        LabError: the path may not be used, or a file is where a folder should be.
    """
    try:
        yield
    except Exception as error:
        rust = _RUST_ERROR.search(str(error))
        number: Any = int(rust[1]) if rust else getattr(error, "errno", None)
        name: Any = rust[2] if rust else getattr(error, "filename", None)
        if isinstance(error, LabError) or number not in NOT_WRITABLE | NO_FOLDER or name is None:
            raise
        path = Path(os.fsdecode(name))
        named = path.parent if path.name.startswith(".") else path  # of locks and of temporary files the folder
        raise LabError(f"{named}: {os.strerror(number)}. Change its permissions, or give another folder.") from error
