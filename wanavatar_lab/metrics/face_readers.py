"""What the evaluation of a clip reads from faces: the opening of the mouth, regions and the outline, frame by frame.

    with reader_for(clip) as reader:
        reading = reader.read(frames, seconds)      # successive frames, in the order of time

Landmarks are used wherever there are some: those beside a drawn video, else MediaPipe's. The faces of toy models are
too simple for MediaPipe, so their profile names a reader of its own (`Profile.face_reader`). `landmark_source` finds
the faces of a recording that is dubbed.
"""

import importlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from wanavatar_lab.errors import LabError, MediaError, WeightsError
from wanavatar_lab.files import read_file
from wanavatar_lab.metrics.landmarks import DrawnLandmarks, Face, FaceIn, LandmarkSource, sidecar
from wanavatar_lab.metrics.mediapipe_landmarks import WEIGHTS, MediaPipeLandmarks
from wanavatar_lab.profiles import PROFILES, Profile
from wanavatar_lab.runs import made_with
from wanavatar_lab.settings import read_settings
from wanavatar_lab.weights import find_weights
from wanavatar_lab.weights.table import download_command

GRID = 96  # places of a mask along the longer side of a picture: enough for mean colours
SOURCES = ("auto", "mediapipe", "drawn", *(name for name, profile in PROFILES.items() if profile.face_reader))


@dataclass(frozen=True)
class FaceReading:
    """What was read from F frames.

    Attributes:
        opening: how far the mouth is open, [F]; NaN without a face. Its scale is the reader's own.
        regions: by name, soft masks [F, h, w] in 0..1; see `identity.RegionSource`.
        faces: the landmarks of each frame, as far as the reader has some.
    """

    opening: NDArray[np.float64]
    regions: Mapping[str, NDArray[np.float64]]
    faces: Sequence[Face | None]


class FaceReader(Protocol):
    """Reads faces; `source` names it."""

    source: str

    def read(self, frames: NDArray[np.uint8], seconds: Sequence[float]) -> FaceReading:
        """Read the next frames, uint8 [F, H, W, 3], which are shown at these times."""


@contextmanager
def reader_for(clip: Path, source: str = "auto") -> Iterator[FaceReader]:
    """The reader of a clip's faces.

    Args:
        source: one of `SOURCES`. "auto" takes the landmarks beside a drawn video, the reader of the profile that made
            the clip by `request_of`, and else MediaPipe.

    Raises:
        WeightsError: it lacks its weights; the text has the command that downloads them.
        LabError: there is no such source, or nothing for it beside the clip.
    """
    if source not in SOURCES:
        raise LabError(f"There is no source of faces {source!r}; there are {', '.join(SOURCES)}.")
    if source == "auto":
        profile = profile_of(clip)
        source = "drawn" if sidecar(clip).is_file() else profile if profile in SOURCES else "mediapipe"
    if source == "drawn":
        with DrawnLandmarks().follow(clip) as face_in:
            yield _Landmarks(source, face_in)
    elif source == "mediapipe":
        with _mediapipe().follow(clip) as face_in:
            yield _Landmarks(source, face_in)
    else:
        yield _OfProfile(source, _reader_of(PROFILES[source]))


def landmark_source(profile: Profile) -> LandmarkSource:
    """What finds the faces in recordings for the models of a profile: its own reader, or else MediaPipe.

    Raises:
        WeightsError: it lacks its weights; the text has the command that downloads them.
    """
    source: LandmarkSource = _reader_of(profile) if profile.face_reader else _mediapipe()
    return source


def _mediapipe() -> MediaPipeLandmarks:
    entry = find_weights(WEIGHTS)
    model = entry.path(read_settings().weights_dir)
    if not model.is_file():
        raise WeightsError(f"MediaPipe reads faces with {entry.place}, which is missing. {download_command(entry)}")
    return MediaPipeLandmarks(model)


def _reader_of(profile: Profile) -> Any:
    module, _, name = profile.face_reader.partition(":")
    return getattr(importlib.import_module(module), name).load()


def profile_of(clip: Path) -> str | None:
    """The profile of the models that made a clip; that of the first clip that tools cut or joined it from."""
    seen: list[Path] = []
    while clip not in seen and (request := request_of(clip)):
        if "profile" in request:
            return str(request["profile"])
        seen.append(clip)  # a request that was written by hand may name itself
        clip = next((Path(value) for value in request.values() if str(value).startswith("/")), clip)
    return None


def request_of(clip: Path) -> Mapping[str, Any]:
    """The request of the run in whose folder a clip is, or else the one that the clip holds; empty if there is none."""
    try:
        found = json.loads(read_file(clip.parent / "request.json"))
    except (OSError, ValueError):  # no run's folder
        try:
            found = made_with.read_settings(clip).request
        except MediaError:
            return {}
    return found if isinstance(found, dict) else {}


@dataclass
class _Landmarks:
    source: str
    face_in: FaceIn

    def read(self, frames: NDArray[np.uint8], seconds: Sequence[float]) -> FaceReading:
        faces = [self.face_in(frame, at) for frame, at in zip(frames, seconds, strict=True)]
        opening = np.array([np.nan if face is None else face.opening for face in faces])
        return FaceReading(opening, regions_of(faces, (frames.shape[1], frames.shape[2])), faces)


@dataclass
class _OfProfile:
    source: str
    reader: Any

    def read(self, frames: NDArray[np.uint8], seconds: Sequence[float]) -> FaceReading:
        try:
            return FaceReading(self.reader.opening(frames), self.reader.regions(frames), [None] * len(frames))
        except ValueError as error:
            raise LabError(f"The reader of {self.source} cannot read these frames: {error}") from error


def grid_of(size: tuple[int, int]) -> tuple[int, int]:
    """Places of a mask, down and across, for pictures of (height, width)."""
    scale = min(1.0, GRID / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def regions_of(faces: Sequence[Face | None], size: tuple[int, int]) -> dict[str, NDArray[np.float64]]:
    """Skin, clothes and background by the landmarks of faces in frames of (height, width), masks [F, h, w].

    Skin is the inner part of the oval without the lips, clothes are below the chin, and the background is beside and
    above the head, farther from the face than hair usually is.
    """
    down, across = grid_of(size)
    scale = np.array([across / size[1], down / size[0]])
    masks = {name: np.zeros((len(faces), down, across)) for name in ("skin", "clothes", "background")}
    y, x = np.mgrid[:down, :across] + 0.5
    for i, face in enumerate(faces):
        if face is None:
            continue
        centre = face.centre * scale
        wide, tall = face.width * scale[0], face.height * scale[1]
        chin = face.oval[:, 1].max() * scale[1]
        inner = _filled(face.centre + 0.85 * (face.oval - face.centre), scale, (down, across))
        lips = _filled(face.lips_outer, scale, (down, across))
        masks["skin"][i] = inner & ~lips
        masks["clothes"][i] = (y > chin + 0.4 * tall) & (np.abs(x - centre[0]) < 0.8 * wide)
        away = ((x - centre[0]) / wide) ** 2 + ((y - centre[1]) / tall) ** 2 > 1.1**2
        masks["background"][i] = away & (y < chin)
    return masks


def _filled(points: NDArray[np.float64], scale: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    drawn = np.zeros(size, np.uint8)
    cv2.fillPoly(drawn, [np.round(points * scale - 0.5).astype(np.int32)], 1)
    return drawn.astype(bool)
