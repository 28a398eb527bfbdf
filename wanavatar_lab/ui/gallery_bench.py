"""How long the gallery takes with many runs, in seconds, and how much of them it sends to the page.

    python -m wanavatar_lab.ui.gallery_bench --runs 2000

The runs are made in a folder that is removed afterwards: pictures, the larger pictures made of them, and talking clips,
with a prompt each. Nothing is executed.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from wanavatar_lab.requests import Request, SpeechToVideo, TextToImage, Upscale
from wanavatar_lab.runs.status import Artifact, Status
from wanavatar_lab.ui.gallery import Gallery

BEGAN = 1_767_225_600.0  # when the first of the runs was submitted
APART = 60.0  # seconds from one to the next


def make_runs(folder: Path, count: int) -> None:
    """Fill a runs folder: of three runs one has a picture, one the picture made of it, one a clip made of that."""
    before = folder / "sample.png"
    for number in range(count):
        request, suffix = _request(number, before)
        when = BEGAN + APART * number
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(when))}-{number:04x}-{request.stage}"
        run = folder / name
        run.mkdir(parents=True)
        before = run / f"result{suffix}"
        before.write_bytes(b"-")
        made = [Artifact(kind=request.artifact, path=before.name)]
        times = {"submitted_at": when, "started_at": when + 1, "finished_at": when + 9}
        status = Status(state="succeeded", message="done", fraction=1.0, seed=number, artifacts=made, **times)
        (run / "request.json").write_text(json.dumps(request.to_json(), ensure_ascii=False), encoding="utf-8")
        (run / "status.json").write_text(status.model_dump_json(indent=2), encoding="utf-8")
        (run / "log.txt").touch()


def measure(folder: Path, count: int) -> dict[str, float]:
    """Seconds of each thing that one waits for, and kilobytes; `folder` has `count` runs."""
    figures: dict[str, float] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        begin = time.perf_counter()
        work()
        figures[name] = round(time.perf_counter() - begin, 4)

    made: list[Gallery] = []
    timed("listed", lambda: made.append(Gallery(folder)))
    (gallery,) = made
    timed("searched", lambda: setattr(gallery, "query", f"number {count - 1}"))
    timed("all again", lambda: setattr(gallery, "query", ""))
    timed("one kind", lambda: setattr(gallery, "kind", "talking"))
    gallery.kind = ""
    timed("looked again, nothing new", gallery.refresh)
    newest = next(folder.iterdir())
    timed("family shown", lambda: setattr(gallery, "family", newest.name))
    gallery.family = ""
    figures["kilobytes sent"] = round(len(json.dumps(gallery.entries)) / 1000, 1)
    figures["runs"] = gallery.total
    gallery.close()
    return figures


def _request(number: int, before: Path) -> tuple[Request, str]:
    prompt = f"a portrait of face number {number} in the light of a window, painted"
    match number % 3:
        case 0:
            return TextToImage(prompt=prompt, seed=number, profile="pocket"), ".png"
        case 1:
            return Upscale(image=str(before), profile="pocket"), ".png"
    return SpeechToVideo(image=str(before), audio=str(before), prompt=prompt, profile="pocket"), ".mp4"


def main(words: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m wanavatar_lab.ui.gallery_bench", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--runs", type=int, default=2000, help="how many there are")
    count = parser.parse_args(words).runs
    with tempfile.TemporaryDirectory() as place:
        # what it shows must lie below the folder that is served
        os.environ["WANAVATAR_SERVER_ROOT"] = place
        make_runs(Path(place) / "runs", count)
        figures = measure(Path(place) / "runs", count)
    sys.stdout.write("".join(f"{name:26} {value:g}\n" for name, value in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
