"""The lines of a log that say how far a chain is."""

import sys
from collections.abc import Callable

from wanavatar_lab.chain.forecast import Progress

PARTS = 5  # a log gets a line each time that so many parts of a stage's steps are done


def on_progress(write: Callable[[str], object] | None = None) -> Callable[[Progress], None]:
    """What `follow` should tell its progress to where nobody looks on: lines worth keeping, some six for each stage.

    Args:
        write: takes the lines instead of standard output.
    """
    put = write or _print
    last: list[tuple[int, int, bool]] = []

    def show(progress: Progress) -> None:
        parts = int(progress.status.fraction * PARTS)
        now = (progress.number, parts, progress.status.ended)
        if [now] != last:
            last[:] = [now]
            put(str(progress))

    return show


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
