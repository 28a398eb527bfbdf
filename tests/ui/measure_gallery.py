"""Measure how long the gallery takes with many runs, in seconds, and how much it sends to the page.

    python -m tests.ui.measure_gallery --runs 2000

The runs are written to a temporary folder: pictures, upscaled pictures made of them, and talking clips made of those,
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

FIRST = 1_767_225_600.0  # when the first run was submitted, and the seconds to the next
APART = 60.0


def make_runs(folder: Path, count: int) -> None:
    """Fill a runs folder: a picture, an upscaled picture made of it, a clip made of that, and so on."""
    before = str(folder / "sample.png")
    for number in range(count):
        prompt = f"a portrait of face number {number} in the light of a window, painted"
        request: Request
        match number % 3:
            case 0:
                request = TextToImage(prompt=prompt, seed=number, profile="pocket")
            case 1:
                request = Upscale(image=before, profile="pocket")
            case _:
                request = SpeechToVideo(image=before, audio=before, prompt=prompt, profile="pocket")
        when = FIRST + APART * number
        run = folder / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(when))}-{number:04x}-{request.stage}"
        run.mkdir(parents=True)
        result = run / f"result{request.suffix}"
        result.write_bytes(b"-")
        before = str(result)
        made = [Artifact(kind=request.artifact, path=result.name)]
        status = Status(state="succeeded", seed=number, submitted_at=when, finished_at=when + 9, artifacts=made)
        # not by Run.create, which makes every file durable: 2000 runs would take a minute and more
        (run / "request.json").write_text(json.dumps(request.to_json(), ensure_ascii=False), encoding="utf-8")
        (run / "status.json").write_text(status.model_dump_json(), encoding="utf-8")


def measure(folder: Path, count: int) -> dict[str, float]:
    """Seconds of everything a person waits for, and kilobytes; `folder` has `count` runs."""
    figures: dict[str, float] = {}

    def timed(name: str, work: Callable[[], object]) -> None:
        begin = time.perf_counter()
        work()
        figures[name] = round(time.perf_counter() - begin, 4)

    timed("listed", lambda: Gallery(folder).close())
    gallery = Gallery(folder)
    timed("refreshed, nothing new", gallery.refresh)
    timed("searched", lambda: setattr(gallery, "query", f"number {count - 1}"))
    gallery.query = ""
    figures["kilobytes sent"] = round(len(json.dumps(gallery.entries)) / 1000, 1)
    figures["runs"] = gallery.total
    timed("family shown", lambda: setattr(gallery, "family", next(folder.iterdir()).name))
    gallery.close()
    return figures


def main(words: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser("python -m tests.ui.measure_gallery", description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000, help="how many runs there are")
    count = parser.parse_args(words).runs
    with tempfile.TemporaryDirectory() as place:
        os.environ["WANAVATAR_SERVER_ROOT"] = place  # only files below it are shown
        make_runs(Path(place) / "runs", count)
        figures = measure(Path(place) / "runs", count)
    sys.stdout.write("".join(f"{name:26} {value:g}\n" for name, value in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
