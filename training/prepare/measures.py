"""Measures of a clip, taken while it is made, and its problems in words."""

from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.prepare.clip_folder import FPS, RATE
from training.prepare.draw_masks import Masks
from wanavatar_lab.metrics import decibels, lip_sync, loudness
from wanavatar_lab.metrics.landmarks import Face

# A mouth may lag or lead by this many frames: 125 ms, from which on viewers notice late sound (ITU-R BT.1359). Lags up
# to REACH frames are tried.
IN_SYNC, REACH = 2, 8
FOLLOWS = 0.3  # correlation of mouth and loudness at the best lag; below it the mouth says something else
FEW_FACES = 0.9  # share of the frames; with fewer a clip is flagged, and with less than half of it no lag is estimated
QUIET, CLIPPED = -40.0, 0.001  # dBFS of speech; share of the samples at full scale
EVERY = 4  # sharpness is measured in every fourth frame
HASHES = 4  # frames that get a perceptual hash
SMALL_LIPS = 1e-3  # share of the picture; smaller lips get no loss of their own, see `training.loop.loss.SMALLEST`
_SIDE = 8  # of a perceptual hash, 8×8 bits


@dataclass(frozen=True)
class Measures:
    """Measures of a clip.

    Attributes:
        face_found: share of the frames with a face.
        face_width: median, pixels.
        face_area, lip_area: mean share of the picture covered by the masks, in the frames with a face.
        lag: frames by which the mouth trails the sound, negative if it leads; None if it cannot be estimated.
        lag_r: correlation of mouth opening and loudness at that lag; `r` is that without a lag.
        sharpness: variance of the Laplacian of the face's luma, in squared 8-bit levels.
        speech: level of loud speech, dBFS.
        clipped: share of the samples at full scale.
        opening: of the mouth in every frame, as a share of the face's height; None without a face.
        level: loudness of every frame, dBFS.
        hashes: perceptual hashes of some frames, 64 bits each.
        problems: a few words each.
    """

    face_found: float
    face_width: float | None
    face_area: float | None
    lip_area: float | None
    lag: int | None
    lag_r: float | None
    r: float | None
    sharpness: float
    speech: float
    clipped: float
    opening: list[float | None]
    level: list[float]
    hashes: list[str]
    problems: list[str] = field(default_factory=list)

    def written(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)


class Observer:
    """Measures the frames of a clip one by one, so that none has to be kept.

    Args:
        expected: number of frames.
    """

    def __init__(self, expected: int) -> None:
        self._hashed = {i * expected // HASHES for i in range(HASHES)}
        self._opening: list[float | None] = []
        self._widths: list[float] = []
        self._areas: list[tuple[float, float]] = []
        self._sharpness: list[float] = []
        self._hashes: list[str] = []

    def see(self, frame: NDArray[np.uint8], face: Face | None, masks: Masks) -> None:
        """Measure the next frame, uint8 [H, W, 3], with its face and its masks."""
        index = len(self._opening)
        self._opening.append(None if face is None else round(face.opening, 5))
        if face is not None:
            self._widths.append(face.width)
            self._areas.append((float((masks.face > 0).mean()), float((masks.lips > 0).mean())))
        if index in self._hashed:
            self._hashes.append(perceptual_hash(frame))
        if index % EVERY == 0:
            self._sharpness.append(sharpness(_face_of(frame, face)))

    def measures(self, sound: NDArray[np.float32], *, through_speech: bool = False) -> Measures:
        """The measures of all frames and of their sound, [T] at 16 kHz.

        Args:
            through_speech: whether the clip begins or ends where somebody speaks.
        """
        frames = len(self._opening)
        level = loudness(sound, frames=frames)
        found = len(self._widths) / frames
        lag, lag_r, r = sync_of(self._opening, sound)
        speech = float(decibels(np.quantile(level, 0.95)))
        clipped = float((np.abs(sound) >= 32767 / 32768).mean())
        face_area, lip_area = np.mean(self._areas, axis=0).round(5).tolist() if self._areas else (None, None)
        problems = []
        if not found:
            problems.append("no face was found")
        elif found < FEW_FACES:
            problems.append(f"a face was found in {found:.0%} of its frames only")
        if lip_area is not None and lip_area < SMALL_LIPS:
            problems.append(
                f"small lips: {lip_area:.2%} of the picture; below {SMALL_LIPS:.1%} they get no loss of their own"
            )
        if lag is None or lag_r is None:
            problems += ["its mouth cannot be compared with its sound"] if found else []
        elif lag_r < FOLLOWS:
            problems.append(f"its mouth does not follow its sound (r = {lag_r:.2f} at best)")
        elif abs(lag) > IN_SYNC:
            when = "after" if lag > 0 else "before"
            problems.append(f"out of sync: its mouth moves {abs(lag)} frames ({abs(lag) / FPS:.2f} s) {when} the sound")
        if speech < QUIET:
            problems.append(f"quiet: its speech is at {speech:.0f} dBFS")
        if clipped > CLIPPED:
            problems.append(f"clipped: {clipped:.1%} of its samples are at full scale")
        if through_speech:
            problems.append("begins or ends where somebody speaks, since no silence was near")
        return Measures(
            face_found=round(found, 4),
            face_width=round(float(np.median(self._widths)), 1) if self._widths else None,
            face_area=face_area,
            lip_area=lip_area,
            lag=lag,
            lag_r=lag_r,
            r=r,
            sharpness=round(float(np.mean(self._sharpness)), 2),
            speech=round(speech, 1),
            clipped=round(clipped, 5),
            opening=self._opening,
            level=[round(each, 1) for each in decibels(level).tolist()],
            hashes=self._hashes,
            problems=problems,
        )


def out_of_sync(measures: Measures) -> str:
    """What is wrong, if the mouth follows the sound so late or so early that viewers notice it, or at no lag at all.

    Empty if nothing is wrong, or if mouth and sound cannot be compared.
    """
    lag, lag_r = measures.lag, measures.lag_r
    if lag is None or lag_r is None:
        return ""
    if lag_r < FOLLOWS:
        return f"its mouth does not follow its sound (r = {lag_r:.2f} at best)"
    return f"out of sync by {lag:+d} frames" if abs(lag) > IN_SYNC else ""


def perceptual_hash(frame: NDArray[np.uint8]) -> str:
    """dHash, 64 bits as hexadecimal digits: in which of 8×8 places the picture gets lighter to the right."""
    small = Image.fromarray(frame).convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    levels = np.asarray(small, dtype=np.int16)
    return np.packbits(levels[:, 1:] > levels[:, :-1]).tobytes().hex()


def sharpness(frame: NDArray[np.uint8]) -> float:
    """The variance of the Laplacian of a picture's luma; 0 for one smaller than 3×3 pixels."""
    if min(frame.shape[:2]) < 3:
        return 0.0
    luma = cv2.cvtColor(frame.astype(np.float32), cv2.COLOR_RGB2GRAY)
    # without the border, where neighbours would be made up
    return float(cv2.Laplacian(luma, cv2.CV_32F)[1:-1, 1:-1].var())


def _face_of(frame: NDArray[np.uint8], face: Face | None) -> NDArray[np.uint8]:
    """The part of a frame that shows the face; all of it without a face in the picture."""
    if face is None:
        return frame
    (left, top), (right, bottom) = np.maximum(face.oval.min(axis=0), 0), np.maximum(face.oval.max(axis=0), 0)
    part = frame[int(top) : int(bottom) + 1, int(left) : int(right) + 1]
    return part if part.size else frame


def sync_of(opening: list[float | None], sound: NDArray[np.float32]) -> tuple[int | None, float | None, float | None]:
    """The lag of a mouth in frames, and its correlation with the loudness at that lag and without one."""
    known = [(i, each) for i, each in enumerate(opening) if each is not None]
    if len(known) < max(2 * REACH, FEW_FACES / 2 * len(opening)):
        return None, None, None
    places, values = zip(*known, strict=True)
    mouth = np.interp(np.arange(len(opening)), places, values)
    try:
        found = lip_sync(mouth, sound, rate=RATE, reach=REACH)
    except ValueError:  # a mouth or a sound that never changes correlates with nothing
        return None, None, None
    return found.lag, round(found.r_at_lag, 3), round(found.r, 3)
