"""The command evaluate: measure talking clips, one, two side by side, or those of folders."""

import argparse
from pathlib import Path
from typing import Any

from wanavatar_lab.cli.options import place_fault
from wanavatar_lab.cli.output import answer, say
from wanavatar_lab.errors import FAILED, SUCCEEDED, LabError, MediaError, RequestError
from wanavatar_lab.requests.request import must_be, shown


def add_options(command: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    command.add_argument("clip", metavar="CLIP", help="a clip, or a folder of clips")
    command.add_argument(
        "other",
        metavar="OTHER",
        nargs="?",
        help="another clip or folder to compare with; clips of two folders belong together by name, else in order",
    )
    command.add_argument(
        "--faces",
        metavar="SOURCE",
        default="auto",
        help="what reads the faces: mediapipe, drawn (the landmarks beside a drawn video), or pocket for the faces of "
        "that profile (default auto: by the clip)",
    )
    command.add_argument("--reference", metavar="FILE", help="a picture of the person (default: the clip's first part)")
    command.add_argument(
        "--borders",
        metavar="N,N,…",
        help="first frame of each segment but the first; none for no segments (default: those of the clip's run, "
        "or every 80 frames at 16 frames per second)",
    )
    command.add_argument("--picture", metavar="FILE", help="draw the result: a file that ends in .png, .svg or .pdf")


def evaluate(arguments: argparse.Namespace) -> int:
    """Print the measures, and draw them.

    Raises:
        RequestError: an option is not allowed.
        LabError: a clip cannot be measured, or the picture cannot be written.
    """
    # here, since no other command needs media and numbers
    from wanavatar_lab.metrics.evaluate import evaluate as measure
    from wanavatar_lab.metrics.evaluate import pairs, table
    from wanavatar_lab.metrics.face_readers import SOURCES

    problems = []
    if arguments.faces not in SOURCES:
        problems.append(("faces", must_be(f"one of {', '.join(SOURCES)}", arguments.faces)))
    borders = None
    if arguments.borders is not None:
        words = [] if arguments.borders == "none" else arguments.borders.split(",")
        if all(word.strip().isdecimal() for word in words):
            borders = [int(word) for word in words]
        else:
            problems.append(("borders", must_be("frame numbers separated by commas, or none", arguments.borders)))
    if arguments.picture and Path(arguments.picture).suffix.lower() not in (".png", ".svg", ".pdf"):
        problems.append(("picture", must_be("a file that ends in .png, .svg or .pdf", arguments.picture)))
    elif arguments.picture and (fault := place_fault(arguments.picture)):  # not when all is measured
        problems.append(("picture", f"{fault} (got {shown(arguments.picture)})"))
    if problems:
        raise RequestError(problems)
    how: dict[str, Any] = {"faces": arguments.faces, "reference": arguments.reference, "borders": borders}
    found, failures = [], []
    clips = pairs(arguments.clip, arguments.other)
    for clip, other in clips:
        try:
            found.append((measure(clip, **how), measure(other, **how) if other else None))
        except MediaError as error:  # of this clip; the others may have taken hours
            if len(clips) == 1:
                raise
            failures.append(error)
            say(f"Left out: {error}")
    if not found:
        raise LabError(f"None of {len(clips)} clips could be measured.")
    for each in (each for pair in found for each in pair if each):
        for note in each.notes:
            say(f"{each.clip}: {note}")
    told = [(first.to_json(), other.to_json() if other else None) for first, other in found]
    if arguments.json:
        answer([{"clip": first, "other": other} for first, other in told] + [{"error": str(each)} for each in failures])
    else:
        answer("\n".join(table(told)))
    if arguments.picture:  # after the numbers, which may have taken long
        from wanavatar_lab.metrics.evaluation_picture import draw  # imports matplotlib, which takes a second

        draw(found, arguments.picture)
    if failures:
        say(f"{len(failures)} of {len(failures) + len(found)} clips could not be measured; they are named above.")
        return FAILED
    return SUCCEEDED
