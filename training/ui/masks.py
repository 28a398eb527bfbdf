"""The masks of a clip over its frames: some frames with face and lips, and how much of the picture both have."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from training.prepare.draw_masks import Masks
from training.prepare.layout import FACE_MASKS, LIP_MASKS, ClipFolder, read_clip
from training.prepare.sheets import overlaid
from training.ui.curves import GREEN, GREY, RED

SHOWN = 8  # frames


def mask_figure(folder: Path) -> Figure:
    """Frames of a clip with the face in green and the lips in red, above the areas of both in all frames.

    Raises:
        LabError: the folder is no complete clip.
    """
    clip = read_clip(folder)
    figure = Figure(figsize=(12.0, 5.0), layout="constrained")
    valid, grid = clip.valid(), figure.add_gridspec(2, SHOWN, height_ratios=[1, 1.4])
    for place, frame in enumerate(np.linspace(0, clip.frames - 1, SHOWN).round().astype(int)):
        face, lips = (clip.mask(kind, frame) for kind in (FACE_MASKS, LIP_MASKS))
        axes = figure.add_subplot(grid[0, place])
        axes.imshow(overlaid(clip.image(frame), Masks(face, lips, bool(valid[frame]))))
        axes.set_title(f"{frame / clip.fps:.1f} s", fontsize=10)
        axes.set_axis_off()
    seconds = np.arange(clip.frames) / clip.fps
    face_area, lip_area = areas(clip)
    area = figure.add_subplot(grid[1, :])
    area.plot(seconds, 100 * face_area, color=GREEN, label="face")
    area.plot(seconds, 100 * lip_area, color=RED, label="lips")
    lost = ~valid
    if lost.any():
        area.fill_between(seconds, 0, 1, where=lost, transform=area.get_xaxis_transform(), color=GREY, alpha=0.3,
                          step="mid", label="no face: counts in no mask")  # fmt: skip
    area.set_yscale("log")
    area.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    area.set_title(f"Masks of {folder.name}", fontsize=12)
    area.set_xlabel("seconds")
    area.set_ylabel("share of the picture, %")
    area.grid(alpha=0.25)
    area.spines[["top", "right"]].set_visible(False)
    area.legend(fontsize=9, frameon=False, loc="lower right")
    return figure


def areas(clip: ClipFolder) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of the picture that face and lips have, float64 [frames] each."""
    face, lips = (
        np.array([(clip.mask(kind, frame) > 127).mean() for frame in range(clip.frames)])
        for kind in (FACE_MASKS, LIP_MASKS)
    )
    return face, lips
