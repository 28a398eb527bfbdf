"""Landmarks by MediaPipe's FaceLandmarker, of large faces and of small ones.

MediaPipe looks for faces in a picture of 128×128 pixels, to which it scales every frame: those less wide than an eighth
of the frame's longer side are not found. So where nothing is found the frame is looked through in overlapping tiles,
and a small face is then followed in a crop around its last place.

MediaPipe is imported at first use: its import takes a second, and clips without masks do not need it.
Reference: https://ai.google.dev/edge/mediapipe/solutions/vision/face_landmarker (Tasks, running mode VIDEO).
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanavatar_lab.errors import LabError, WeightsError
from wanavatar_lab.files import sha256_of
from wanavatar_lab.metrics.landmarks import Face, FacesIn, LandmarkSource, apart
from wanavatar_lab.settings import read_settings
from wanavatar_lab.weights import find_weights
from wanavatar_lab.weights.table import download_command

WEIGHTS = "face-landmarker"
MOST_FACES = 4  # that are detected; with one, MediaPipe would choose the person by chance
# Tiles are a half and a quarter of the frame's longer side, and so on down to TILE pixels, in which faces of an eighth
# of that are found: 60 pixels in 1920×1080. Neighbours overlap by a quarter, twice as much as the smallest face.
TILE, OVERLAP = 320, 0.25
AGAIN = 4  # every so many frames in which there is nobody the tiles are looked through; they take 0.1 s
CROP = 3.0  # side of the square in which a face is followed, in widths of that face
LOST = 1.0  # seconds for which the last place of a face is looked at when it is not found any more
SAME = 0.5  # two detections less than so many face widths apart are of one face

# indices into MediaPipe's face mesh, from face_landmarker's FaceLandmarksConnections
OVAL_PLACES = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
OUTER_PLACES = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
MARK_PLACES = ((33, 133), (362, 263), (1,), (61,), (291,))  # eyes by their corners, nose, corners of the mouth
INNER_PLACES = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)


class MediaPipeLandmarks(LandmarkSource):
    """Detects the faces in the frames of any video; see `landmarks.LandmarkSource`.

    Args:
        model: the `.task` file; None takes the one in the weights folder.

    Raises:
        WeightsError: the file is missing; the text has the command that downloads it.
    """

    def __init__(self, model: Path | None = None) -> None:
        entry = find_weights(WEIGHTS)
        self.model = model or entry.path(read_settings().weights_dir)
        if not self.model.is_file():
            raise WeightsError(
                f"MediaPipe detects faces with {entry.place}, which is not at {self.model}. {download_command(entry)} "
                "Without it, `--landmarks none` cuts the clips and marks all their frames as without a face."
            )
        settings = f"{MOST_FACES} {TILE} {OVERLAP} {AGAIN} {CROP} {LOST} {SAME}"
        self._identity = f"mediapipe {version('mediapipe')} {sha256_of(self.model)} {settings}"

    def identity(self, video: Path) -> str:
        """By MediaPipe's release and the model's contents."""
        return self._identity

    @contextmanager
    def everyone(self, video: Path) -> Iterator[FacesIn]:
        """See `landmarks.LandmarkSource`.

        Raises:
            WeightsError: MediaPipe cannot use the model.
            LabError: a library of the system that MediaPipe links to is missing.
        """
        with naming_packages():
            from mediapipe.tasks.python.vision import RunningMode

        # VIDEO tracks faces from frame to frame, and IMAGE detects them anew in crops, which differ each time
        with self._landmarker(RunningMode.VIDEO) as tracking, self._landmarker(RunningMode.IMAGE) as detecting:
            yield _Search(tracking, detecting).faces_in

    def _landmarker(self, mode: Any) -> Any:
        from mediapipe.tasks.python import BaseOptions, vision

        options = vision.FaceLandmarkerOptions(
            # from memory, since MediaPipe's native code resolves paths by rules of its own
            base_options=BaseOptions(model_asset_buffer=self.model.read_bytes()),
            running_mode=mode,
            num_faces=MOST_FACES,
        )
        try:
            with naming_packages():  # its native code is loaded here
                return vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            raise WeightsError(
                f"MediaPipe cannot use {self.model} ({error}). {download_command(find_weights(WEIGHTS))}"
            ) from error


@contextmanager
def naming_packages() -> Iterator[None]:
    """Name the packages of Debian and Ubuntu for the libraries that a slim container lacks for MediaPipe.

    Raises:
        LabError: one of them could not be loaded in this context.
    """
    try:
        yield
    except (ImportError, OSError) as error:
        missing = re.search(r"(lib[\w.+-]+\.so[.\d]*): cannot open shared object file", str(error))
        if missing is None:
            raise
        raise LabError(
            f"MediaPipe needs {missing[1]}, which this system lacks: install libgl1, libegl1 and libgles2 (`apt-get "
            "install libgl1 libegl1 libgles2`; no GPU is needed), or use `--landmarks none`."
        ) from error


class _Search:
    """Finds the faces in successive frames of a video: in the whole frame, in crops about known faces, in tiles."""

    def __init__(self, tracking: Any, detecting: Any) -> None:
        self._tracking, self._detecting = tracking, detecting
        self._known: list[tuple[float, Face]] = []  # when each face was last seen, and where
        self._nobody = 0  # successive frames

    def faces_in(self, frame: NDArray[np.uint8], seconds: float) -> list[Face]:
        """The faces in the next frame, uint8 [H, W, 3]."""
        height, width = frame.shape[:2]
        found = _faces(self._tracking.detect_for_video(_image(frame), round(seconds * 1000)), (0, 0, width, height))
        known = [(since, last) for since, last in self._known if seconds - since <= LOST]
        for _, last in known:
            if not any(apart(face, last) <= SAME for face in found):
                _add(found, self._in_crop(frame, last))
        if not found and self._nobody % AGAIN == 0:
            for tiles in tile_sizes(width, height):
                for box in tiles:
                    _add(found, self._detect(frame, box))
                if found:
                    break
        self._nobody = 0 if found else self._nobody + 1
        unseen = [each for each in known if not any(apart(face, each[1]) <= 1 for face in found)]
        self._known = [(seconds, face) for face in found] + unseen
        return found

    def _in_crop(self, frame: NDArray[np.uint8], last: Face) -> list[Face]:
        height, width = frame.shape[:2]
        side = min(round(CROP * last.width), width, height)
        left, top = (
            int(np.clip(round(middle - side / 2), 0, whole - side))
            for middle, whole in zip(last.centre, (width, height), strict=True)
        )
        return self._detect(frame, (left, top, side, side))

    def _detect(self, frame: NDArray[np.uint8], box: tuple[int, int, int, int]) -> list[Face]:
        left, top, width, height = box
        return _faces(self._detecting.detect(_image(frame[top : top + height, left : left + width])), box)


def tile_sizes(width: int, height: int) -> Iterator[list[tuple[int, int, int, int]]]:
    """Overlapping squares that cover a frame, as (left, top, width, height), first the largest ones."""
    side = max(width, height) // 2
    while side >= TILE:
        broad, tall = min(side, width), min(side, height)
        yield [(x, y, broad, tall) for y in _starts(height, tall) for x in _starts(width, broad)]
        side //= 2


def _starts(whole: int, part: int) -> list[int]:
    count = 1 + int(np.ceil((whole - part) / (part * (1 - OVERLAP))))
    return np.linspace(0, whole - part, count).round().astype(int).tolist()


def _add(found: list[Face], more: Sequence[Face]) -> None:
    """Add those faces that are not there already, as one that two tiles show."""
    for face in more:
        if not any(min(apart(face, other), apart(other, face)) <= SAME for other in found):
            found.append(face)


def _image(frame: NDArray[np.uint8]) -> Any:
    import mediapipe

    return mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(frame))


def _faces(result: Any, box: tuple[int, int, int, int]) -> list[Face]:
    """The faces that MediaPipe found in a part of a frame, placed in the frame."""
    left, top, width, height = box
    faces = []
    for points in result.face_landmarks:
        # MediaPipe's points are shares of the picture
        placed = np.array([(left + point.x * width, top + point.y * height) for point in points])
        oval, outer, inner = (placed[list(places)] for places in (OVAL_PLACES, OUTER_PLACES, INNER_PLACES))
        # the middle of an eye is that of its corners, since the pupil moves
        marks = np.stack([placed[list(places)].mean(axis=0) for places in MARK_PLACES])
        faces.append(Face(oval, outer, inner, marks))
    return faces
