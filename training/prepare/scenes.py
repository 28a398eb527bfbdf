"""Find hard cuts, so that no clip is trained across one.

A cut changes much of the picture from one frame to the next, and little changes just before and just after it. A pan, a
gesture or a zoom goes on for several frames, and a flash changes the picture twice.
"""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from training.prepare.clip_folder import FPS
from wanavatar_lab.media import read_frames

GRID = (32, 18)  # cells (across, down) whose mean colours are compared, so that grain and edges do not count
CHANGED = 20  # 8-bit levels of a colour channel by which a cell has changed
# Share of the cells that change at a cut, and how many times more than at the frames around it. A mouth in a close-up
# that opens from one frame to the next changes 5 % of them.
SHARE, TIMES, AROUND = 0.1, 3.0, 2


def scene_changes(video: Path) -> list[int]:
    """The frames at 16 fps, counted from the video's beginning, that are the first ones after a cut.

    Raises:
        MediaError: the video cannot be read.
    """
    return cuts_between(read_frames(video, fps=FPS))


def cuts_between(frames: Iterable[NDArray[np.uint8]]) -> list[int]:
    """The indices of the frames, uint8 [H, W, 3], that are the first ones after a cut."""
    before: NDArray[np.int16] | None = None
    changes = []
    for frame in frames:
        cells = cv2.resize(frame, GRID, interpolation=cv2.INTER_AREA).astype(np.int16)
        changes.append(0.0 if before is None else float((np.abs(cells - before).max(axis=-1) > CHANGED).mean()))
        before = cells
    padded = np.pad(np.array(changes), AROUND)
    cuts = []
    for index, change in enumerate(changes):
        around = np.delete(padded[index : index + 2 * AROUND + 1], AROUND)
        if change >= SHARE and change >= TIMES * around.max():
            cuts.append(index)
    return cuts
