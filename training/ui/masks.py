"""The masks of a clip over its frames: some frames with face and lips, and how much of the picture both have."""

import base64
import io
from pathlib import Path

import numpy as np
from IPython.display import HTML
from numpy.typing import NDArray
from PIL import Image

from training.prepare.draw_masks import Masks
from training.prepare.layout import FACE_MASKS, LIP_MASKS, ClipFolder, read_clip
from training.prepare.sheets import overlaid
from training.ui.plots import GREEN, GREY, RED, Plot, new_axes, plots_html

SHOWN, TALL = 8, 160  # frames, and the pixels of their height


def masks_over_frames(folder: Path) -> HTML:
    """Frames of a clip with the face in green and the lips in red, above the areas of both in all frames.

    Raises:
        LabError: the folder is no complete clip.
    """
    clip = read_clip(folder)
    valid = clip.valid()
    frames = np.linspace(0, clip.frames - 1, SHOWN).round().astype(int).tolist()
    shown = "".join(_frame(clip, frame, bool(valid[frame])) for frame in frames)
    return HTML(f'<div style="display: flex; flex-wrap: wrap; gap: 8px">{shown}</div>{plots_html([area_plot(clip)])}')


def area_plot(clip: ClipFolder) -> Plot:
    """The areas of the masks of a clip over its seconds."""
    seconds, valid = np.arange(clip.frames) / clip.fps, clip.valid()
    axes = new_axes(wide=True)
    legend = []
    for words, area, colour in zip(("face", "lips"), areas(clip), (GREEN, RED), strict=True):
        axes.plot(seconds, 100 * area, color=colour, label=words)
        legend.append((words, colour))
    if not valid.all():
        across = axes.get_xaxis_transform()
        axes.fill_between(seconds, 0, 1, where=~valid, transform=across, color=GREY, alpha=0.3, step="mid")
        legend.append(("no face: counts in no mask", GREY))
    axes.set_yscale("log")
    axes.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    return Plot(axes, f"Masks of {clip.path.name}", "share of the picture, %", "seconds", legend, wide=True)


def areas(clip: ClipFolder) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of the picture that face and lips have, float64 [frames] each."""
    face, lips = (
        np.array([(clip.mask(kind, frame) > 127).mean() for frame in range(clip.frames)])
        for kind in (FACE_MASKS, LIP_MASKS)
    )
    return face, lips


def _frame(clip: ClipFolder, frame: int, valid: bool) -> str:
    face, lips = (clip.mask(kind, frame) for kind in (FACE_MASKS, LIP_MASKS))
    picture = Image.fromarray(overlaid(clip.image(frame), Masks(face, lips, valid)))
    picture.thumbnail((4 * TALL, TALL))
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=85)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    at = f"{frame / clip.fps:.1f} s"
    return (
        f'<figure style="margin: 0"><img src="data:image/webp;base64,{data}" alt="Frame at {at} with its masks" '
        f'style="display: block; height: 112px"><figcaption style="font-size: 12px">{at}</figcaption></figure>'
    )
