"""Print how far the mouth is open in every frame of a clip of a drawn avatar, as JSON.

    python -m training.pocket.judge.measure runs/demo/talking.mp4      # {"opening": [0.02, 0.31, …]}

It runs as a process of its own, so that a notebook does not load a network into its kernel.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.pocket.judge.reading import Reader
from wanavatar_lab.errors import LabError
from wanavatar_lab.media import read_frames


def main(words: Sequence[str] | None = None) -> int:
    """The command line; exit code 1 if the clip or the judge's weights cannot be read, or the frames are not square."""
    parser = argparse.ArgumentParser(
        prog="python -m training.pocket.judge.measure", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "clip", type=Path, help="video of a drawn avatar, square, with a side of a multiple of 64 pixels"
    )
    given = parser.parse_args(words)
    try:
        opening = Reader.load().opening(np.stack(list(read_frames(given.clip))))
    except (LabError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"opening": opening.round(4).tolist()}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
