"""Files that people choose from: the samples that ship, and what earlier runs made."""

import hashlib
import time
from collections.abc import Collection
from pathlib import Path

from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import STAGE_REQUESTS
from wanavatar_lab.runs import Run, list_runs
from wanavatar_lab.status import Status
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.urls import server_root

_SAMPLES = Path("data") / "samples"
MOST_LISTED = 40
LONGEST_PROMPT = 40  # characters of it in a list

# by a field's hint: how a sample of it ends; webp there are previews for readers
_ENDINGS = {"picture": (".png", ".jpg"), "audio": (".wav",), "video": (".mp4",), "weights": ()}

# by a field's hint: the kinds of artifacts that will do; a clip that talks has a voice, and every clip has pictures
MADE: dict[str, frozenset[str]] = {
    "picture": frozenset({"picture", "video", "talking"}),
    "audio": frozenset({"audio", "talking"}),
    "video": frozenset({"video", "talking"}),
    "weights": frozenset({"weights"}),
}


def samples_folder() -> Path:
    """Where samples lie: below the server's root, so that a page can show them, or else beside the package."""
    places = [server_root() / _SAMPLES, Path(__file__).resolve().parents[2] / _SAMPLES]
    return next((place for place in places if place.is_dir()), places[0])


def samples(widget: str) -> list[Path]:
    """The samples for a field of this hint, by name; none where the package lies without the repository."""
    folder = samples_folder()
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix in _ENDINGS[widget])


def sample(name: str) -> str:
    """The path of a sample that ships, whatever the working folder is.

    Raises:
        LabError: there is none of that name.
    """
    path = samples_folder() / name
    if not path.is_file():
        raise LabError(f"There is no sample {name!r} in {path.parent}.")
    return str(path)


def earlier(kinds: Collection[str], *, runs_dir: Path | str | None = None) -> list[tuple[str, str]]:
    """What earlier runs made of these kinds, newest first: what people read, and the path; at most `MOST_LISTED`."""
    found: list[tuple[str, str]] = []
    for run in list_runs(runs_dir):
        status = run.status()
        made = [artifact for artifact in status.artifacts if artifact.kind in kinds]
        for artifact in made:
            words = [_title(run, status), *([artifact.path] if len(made) > 1 else [])]
            found.append((" · ".join(words), str(run.path(artifact))))
        if len(found) >= MOST_LISTED:
            break
    return found[:MOST_LISTED]


def save_frame(video: str, second: float) -> Path:
    """Write a frame of a video as a picture beside the uploads; the same one has the same name.

    Raises:
        MediaError: the video cannot be read, or ends before.
    """
    # a panel is there sooner where these are read only when someone wants them
    from PIL import Image

    from wanavatar_lab import media
    from wanavatar_lab.ui.upload import FOLDER

    frame = media.read_frame(video, second)
    folder = server_root() / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(frame.tobytes()).hexdigest()[:8]
    path = folder / f"{Path(video).stem}-{second:g}s-{digest}.png"
    media.write_picture(path, Image.fromarray(frame))
    return path


def _title(run: Run, status: Status) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(status.submitted_at))
    stage = STAGE_REQUESTS.get(run.stage)
    name = language.of(stage.labels) if stage else run.stage
    prompt = str(run.read_json("request.json").get("prompt") or "")
    if len(prompt) > LONGEST_PROMPT:
        prompt = prompt[: LONGEST_PROMPT - 1] + "…"
    return " · ".join(filter(None, (name, when, prompt)))
