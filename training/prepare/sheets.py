"""Contact sheets: frames of a clip with its masks, and below them the loudness and the opening of the mouth.

Green is the face, red the lips; a frame without a face has a red border. Below, loudness is grey and the opening of the
mouth red: in a clip in sync, the red line rises where the grey one does.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from training.prepare.clip_folder import FPS
from training.prepare.draw_masks import Masks
from training.prepare.measures import Measures

SHOWN, COLUMNS = 8, 4  # frames of a clip, and of a row
TALL = 160  # height of a frame, pixels
FACE, LIPS, SHARE = (40, 200, 90), (230, 40, 60), 0.35
_STRIP, _LINE, _GAP = 72, 16, 2
_INK, _PAPER, _SOUND = (20, 20, 20), (250, 250, 250), (150, 150, 150)


class Sheet:
    """Collects frames of a clip while it is made.

    Args:
        expected: number of frames.
    """

    def __init__(self, expected: int) -> None:
        self._wanted = {i * expected // SHOWN for i in range(SHOWN)}
        self._seen = 0
        self._shown: list[Image.Image] = []

    def see(self, frame: NDArray[np.uint8], masks: Masks, found: bool) -> None:
        """Add the next frame, uint8 [H, W, 3], with its masks, and whether a face was found in it."""
        if self._seen in self._wanted:
            picture = Image.fromarray(overlaid(frame, masks))
            width = max(1, round(picture.width * TALL / picture.height))
            picture = picture.resize((width, TALL), Image.Resampling.BOX)
            _label(picture, f"{self._seen / FPS:.1f} s")
            if not found:
                ImageDraw.Draw(picture).rectangle((0, 0, width - 1, TALL - 1), outline=LIPS, width=4)
            self._shown.append(picture)
        self._seen += 1

    def drawn(self, measures: Measures) -> Image.Image:
        """The sheet of the frames so far, above the tracks of the measures."""
        grid = tiled(self._shown, COLUMNS)
        sheet = Image.new("RGB", (grid.width, grid.height + _STRIP + _LINE), _PAPER)
        sheet.paste(grid, (0, 0))
        lag = "unknown" if measures.lag is None else f"{measures.lag} frames, r = {measures.lag_r}"
        words = f"face in {measures.face_found:.0%}   lag {lag}   {'; '.join(measures.problems)}"
        # Pillow's built-in font has Latin-1 only
        plain = words.encode("latin-1", "replace").decode("latin-1")
        ImageDraw.Draw(sheet).text((4, grid.height + 2), plain, fill=_INK)
        sheet.paste(_tracks(measures, sheet.width), (0, grid.height + _LINE))
        return sheet


def overlaid(frame: NDArray[np.uint8], masks: Masks) -> NDArray[np.uint8]:
    """A frame, uint8 [H, W, 3], with its face in green and its lips in red."""
    tinted = frame.astype(np.float32)
    for mask, colour in ((masks.face, FACE), (masks.lips, LIPS)):
        inside = mask > 0
        tinted[inside] += SHARE * (np.array(colour, np.float32) - tinted[inside])
    return tinted.astype(np.uint8)


def tiled(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures in rows of `columns`, on white; every cell is as large as the largest picture."""
    width, height = max(each.width for each in pictures), max(each.height for each in pictures)
    rows = -(-len(pictures) // columns)
    columns = min(columns, len(pictures))
    sheet = Image.new("RGB", (columns * (width + _GAP) - _GAP, rows * (height + _GAP) - _GAP), _PAPER)
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place % columns * (width + _GAP), place // columns * (height + _GAP)))
    return sheet


def overview(clips: Sequence[tuple[str, Image.Image]], columns: int = 6) -> Image.Image:
    """The first frame of every clip, given as (name, sheet), under the clip's name."""
    pictures = []
    for name, sheet in clips:
        picture = sheet.crop((0, 0, (sheet.width + _GAP) // COLUMNS - _GAP, TALL))
        _label(picture, name)
        pictures.append(picture)
    return tiled(pictures, columns)


def _tracks(measures: Measures, width: int) -> Image.Image:
    strip = Image.new("RGB", (width, _STRIP), _PAPER)
    draw = ImageDraw.Draw(strip)
    level = 10 ** (np.array(measures.level) / 20)
    opening = np.array([np.nan if each is None else each for each in measures.opening], dtype=np.float64)
    for track, colour in ((level, _SOUND), (opening, LIPS)):
        known = track[np.isfinite(track)]
        most = float(known.max()) if len(known) and known.max() > 0 else 1.0
        points = [
            ((i + 0.5) * width / len(track), (_STRIP - 4) * (1 - each / most) + 2) for i, each in enumerate(track)
        ]
        # the line breaks at frames without a face
        for (start, end), a, b in zip(pairwise(points), track[:-1], track[1:], strict=True):
            if np.isfinite(a) and np.isfinite(b):
                draw.line([start, end], fill=colour, width=2)
    return strip


def _label(picture: Image.Image, words: str) -> None:
    draw = ImageDraw.Draw(picture)
    box = draw.textbbox((4, 4), words)
    draw.rectangle((box[0] - 3, box[1] - 2, box[2] + 3, box[3] + 2), fill=_PAPER)
    draw.text((4, 4), words, fill=_INK)
