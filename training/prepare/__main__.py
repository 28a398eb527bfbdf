"""Prepare videos of one person for training.

python -m training.prepare --videos FOLDER --out DATA
python -m training.prepare --videos FOLDER --out DATA --landmarks drawn   # videos of training.pocket.drawn_person
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import get_args

from training.launch.processes import usable_cores
from training.prepare.clips import Options
from training.prepare.draw_masks import Dilation, Missing
from training.prepare.prepare import prepare
from wanavatar_lab.errors import LabError
from wanavatar_lab.files import report_write_errors
from wanavatar_lab.metrics.landmarks import DrawnLandmarks, LandmarkSource, NoLandmarks
from wanavatar_lab.metrics.mediapipe_landmarks import MediaPipeLandmarks

MOST_WORKERS = 64
_DILATE = "how far its masks are grown, as a share of the face's width"
SOURCES: dict[str, type[LandmarkSource]] = {
    "mediapipe": MediaPipeLandmarks,
    "drawn": DrawnLandmarks,
    "none": NoLandmarks,
}


def main(words: Sequence[str] | None = None) -> int:
    """The command line; 0 if there are clips, 1 if not, 130 after Ctrl-C. Complete clips are kept for the next run."""
    parser = argparse.ArgumentParser(prog="python -m training.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("--videos", type=Path, required=True, help="videos of one person: a folder, with those in it")
    parser.add_argument("--out", type=Path, required=True, help="folder for the clips, masks and the report")
    parser.add_argument("--landmarks", choices=SOURCES, default="mediapipe", help="drawn is for the avatars of pocket")
    parser.add_argument(
        "--missing",
        choices=get_args(Missing),
        default="invalid",
        help="a frame without a face is marked invalid, or gets the previous mask (white at the beginning)",
    )
    parser.add_argument("--dilate-face", type=float, default=Dilation.face, help=_DILATE)
    parser.add_argument("--dilate-lips", type=float, default=Dilation.lips, help=_DILATE)
    parser.add_argument("--hold-out", type=int, default=1, help="number of clips kept for validation")
    parser.add_argument("--workers", type=int, default=min(MOST_WORKERS, usable_cores()), help="clips made in parallel")
    parser.add_argument(
        "--align", action="store_true", help="shift the sound of clips that are out of sync by the measured lag"
    )
    parser.add_argument(
        "--keep-out-of-sync",
        action="store_true",
        help="train on clips too whose mouth is late or early, or does not follow the sound",
    )
    parser.add_argument(
        "--zoom",
        action=argparse.BooleanOptionalAction,
        default=Options.zoom,
        help="crop clips to the face where it is less wide than 15 %% of the frame",
    )
    given = parser.parse_args(words)
    for name, least, most in (
        ("dilate_face", 0, 1),
        ("dilate_lips", 0, 1),
        ("hold_out", 0, 999),
        ("workers", 1, MOST_WORKERS),
    ):
        if not least <= getattr(given, name) <= most:
            parser.error(f"--{name.replace('_', '-')} is {getattr(given, name)}; it must be {least} to {most}")
    options = Options(
        Dilation(given.dilate_face, given.dilate_lips),
        given.missing,
        given.hold_out,
        given.workers,
        given.align,
        given.keep_out_of_sync,
        given.zoom,
    )
    say = partial(print, flush=True)  # at once, also where a notebook or a file reads it
    try:
        with report_write_errors(settings={"--out": given.out, "--videos": given.videos}):
            prepare(given.videos, given.out, SOURCES[given.landmarks](), options, say)
    except LabError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
