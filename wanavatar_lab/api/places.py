"""Which file a path in a request means: one of the uploads, the samples or the runs, and never another.

    uploads/voice.wav                                      an upload, as /api/upload/audio answers it
    outputs/20260211-034501-1a2b-speech_to_video.talking.mp4   a result, as /api/status answers it
    samples/korean.wav                                     a sample that ships

The same with a slash in front, and the file's own path, absolute or from the folder of the repository, are read too. A
result is named by its run and its file, joined by a dot, which no run's id has.
"""

import os
from pathlib import Path

from fastapi import HTTPException

from wanavatar_lab.errors import RunError
from wanavatar_lab.files import printable
from wanavatar_lab.requests.request import shown
from wanavatar_lab.runs.run import Run, runs_folder
from wanavatar_lab.runs.status import Artifact
from wanavatar_lab.runs.uploads import kind_of, uploads_folder
from wanavatar_lab.settings import read_settings

_LONGEST = 1024  # characters of a path


def samples_folder() -> Path:
    """The samples that ship."""
    return read_settings().server_root.absolute() / "data" / "samples"


def file_of(given: object) -> Path:
    """The file that a path in a request means, without links.

    Raises:
        HTTPException: 404, whatever the reason, so that nothing is learnt of other files.
    """
    found = None
    if isinstance(given, str) and 0 < len(given) <= _LONGEST and "\0" not in given:
        first, _, rest = given.removeprefix("/").partition("/")
        if first == "outputs":
            found = result(rest)[2]
        else:
            folder = {"uploads": uploads_folder(), "samples": samples_folder()}.get(first)
            # joined with an absolute path, pathlib gives that path
            found = media_below(folder / rest.lstrip("/") if folder else read_settings().server_root.absolute() / given)
    if found is None:
        raise HTTPException(404, f"There is no file {shown(given)} among the uploads, samples and results.")
    return found


def media_below(path: Path) -> Path | None:
    """`path` without links, if it is a picture, sound or video in one of the three folders; None if it is not."""
    try:
        real = Path(os.path.realpath(path))
        if not os.path.isfile(real) or not kind_of(real):
            return None
    except (OSError, ValueError):  # a name that no disk has
        return None
    for root in (uploads_folder(), samples_folder(), runs_folder()):
        root = Path(os.path.realpath(root))
        if real.is_relative_to(root) and not any(part.startswith(".") for part in real.relative_to(root).parts):
            return real
    return None


def result_name(run: Run, artifact: Artifact) -> str:
    """The name of a result in `/outputs/`."""
    return f"{run.id}.{artifact.file.replace('/', '.')}"


def result(name: str) -> tuple[Run, Artifact, Path]:
    """The result of that name: its run, artifact and file.

    Raises:
        HTTPException: 404, there is none.
    """
    try:
        run = Run.open(name.partition(".")[0])
        for artifact in run.status().artifacts:
            path = media_below(run.path(artifact))
            if result_name(run, artifact) == name and path is not None:
                return run, artifact, path
    except (RunError, ValueError):
        pass
    raise HTTPException(404, f"There is no result {shown(name)}; /api/outputs lists them.")


def wire_path(path: Path) -> str:
    """How an upload is named in answers and requests."""
    return f"uploads/{printable(path.name)}"
