"""What is measured of a clip while it is made, and what is wrong with it, in words."""

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.prepare.clip_folder import FPS, RATE
from training.prepare.draw_masks import Masks
from training.prepare.landmarks import Face
from wanavatar_lab.metrics import decibels, lip_sync, loudness

# A mouth may come this many frames early or late; further, the clip is out of sync. Lags up to REACH are tried.
IN_SYNC, REACH = 2, 8
# Below this correlation with the loudness, at the best lag, a mouth does not say what is heard.
FOLLOWS = 0.3
FEW_FACES = 0.9  # share of the frames; with fewer, a clip is flagged, and below half of it no mouth can be followed
QUIET, CLIPPED = -40.0, 0.001  # dBFS of speech; share of the samples at full scale
EVERY = 4  # frames between two of which the sharpness is measured
HASHES = 4  # frames of which a perceptual hash is taken
SMALL_LIPS = 1e-3  # share of the picture; below it no loss is on lips alone, see `training.loop.loss.SMALLEST`
_SIDE = 8  # of a perceptual hash


@dataclass(frozen=True)
class Measures:
    """What was found in a clip.

    Attributes:
        face_found: share of the frames with a face.
        face_width: of the median frame, pixels.
        face_area, lip_area: mean share of the picture that their masks have, in the frames with a face.
        lag: by how many frames the mouth comes late, negative where early; None where no mouth can be followed.
        lag_r: correlation of the mouth's opening with the loudness at that lag, and `r` without it.
        sharpness: variance of the Laplacian of the face's luma, 8-bit levels squared.
        speech: loudness of the loud speech, dBFS.
        clipped: share of the samples at full scale.
        opening: of the mouth in every frame, as a share of the face's height; None where there is no face.
        level: loudness of every frame, dBFS.
        hashes: perceptual hashes of some frames, 64 bits each.
        problems: what is wrong, each a few words.
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
    """Looks at the frames of a clip as they are made, so that none has to be kept."""

    def __init__(self, expected: int) -> None:
        """Expect so many frames."""
        self._hashed = {i * expected // HASHES for i in range(HASHES)}
        self._opening: list[float | None] = []
        self._widths: list[float] = []
        self._areas: list[tuple[float, float]] = []
        self._sharpness: list[float] = []
        self._hashes: list[str] = []

    def see(self, frame: NDArray[np.uint8], face: Face | None, masks: Masks) -> None:
        """Take in the next frame, uint8 [H, W, 3], its face and its masks."""
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
        """What was found, with the sound of the same time, [T] at 16 kHz."""
        frames = len(self._opening)
        level = loudness(sound, frames=frames)
        found = len(self._widths) / frames
        lag, lag_r, r = _sync(self._opening, sound)
        speech = float(decibels(np.quantile(level, 0.95)))
        clipped = float((np.abs(sound) >= 32767 / 32768).mean())
        areas = np.array(self._areas).mean(axis=0) if self._areas else None
        problems = [
            *_of_the_face(found, self._widths),
            *_of_the_lips(None if areas is None else float(areas[1])),
            *_of_the_sync(lag, lag_r, found),
            *([f"quiet: its speech is at {speech:.0f} dBFS"] if speech < QUIET else []),
            *([f"clipped: {clipped:.1%} of its samples are at full scale"] if clipped > CLIPPED else []),
            *(["begins or ends where somebody speaks, since no silence was near"] if through_speech else []),
        ]
        return Measures(
            face_found=round(found, 4),
            face_width=round(float(np.median(self._widths)), 1) if self._widths else None,
            face_area=round(float(areas[0]), 5) if areas is not None else None,
            lip_area=round(float(areas[1]), 5) if areas is not None else None,
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


def perceptual_hash(frame: NDArray[np.uint8]) -> str:
    """64 bits as hexadecimal digits: in which of 8×8 places the picture gets lighter to the right (dHash)."""
    small = Image.fromarray(frame).convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    levels = np.asarray(small, dtype=np.int16)
    return np.packbits(levels[:, 1:] > levels[:, :-1]).tobytes().hex()


def sharpness(frame: NDArray[np.uint8]) -> float:
    """The variance of the Laplacian of a picture's luma; 0 for one that is smaller than 3×3 pixels."""
    luma = frame.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    if min(luma.shape) < 3:
        return 0.0
    inner = luma[1:-1, 1:-1]
    return float((luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * inner).var())


def _face_of(frame: NDArray[np.uint8], face: Face | None) -> NDArray[np.uint8]:
    """The part of a frame that has the face; all of it where there is none in it."""
    if face is None:
        return frame
    (left, top), (right, bottom) = np.maximum(face.oval.min(axis=0), 0), np.maximum(face.oval.max(axis=0), 0)
    part = frame[int(top) : int(bottom) + 1, int(left) : int(right) + 1]
    return part if part.size else frame


def _sync(opening: list[float | None], sound: NDArray[np.float32]) -> tuple[int | None, float | None, float | None]:
    """The lag of a mouth in frames, and its correlation with the loudness there and without a lag."""
    known = [(i, each) for i, each in enumerate(opening) if each is not None]
    if len(known) < max(2 * REACH, FEW_FACES / 2 * len(opening)):
        return None, None, None
    places, values = zip(*known, strict=True)
    mouth = np.interp(np.arange(len(opening)), places, values)
    try:
        found = lip_sync(mouth, sound, rate=RATE, reach=REACH)
    except ValueError:  # a mouth or a sound that never changes goes with nothing
        return None, None, None
    return found.lag, round(found.r_at_lag, 3), round(found.r, 3)


def _of_the_face(found: float, widths: list[float]) -> list[str]:
    if not widths:
        return ["no face was found"]
    return [f"a face was found in {found:.0%} of its frames only"] if found < FEW_FACES else []


def _of_the_lips(area: float | None) -> list[str]:
    if area is None or area >= SMALL_LIPS:
        return []
    return [
        f"small lips: {area:.2%} of the picture; where they are less than {SMALL_LIPS:.1%}, no loss is on them alone"
    ]


def _of_the_sync(lag: int | None, r: float | None, found: float) -> list[str]:
    if not found:
        return []
    if lag is None or r is None:
        return ["its mouth cannot be compared with its sound"]
    if r < FOLLOWS:
        return [f"its mouth does not follow its sound (r = {r:.2f} at best)"]
    if abs(lag) > IN_SYNC:
        when = "after" if lag > 0 else "before"
        return [f"out of sync: its mouth moves {abs(lag)} frames ({abs(lag) / FPS:.2f} s) {when} the sound"]
    return []
