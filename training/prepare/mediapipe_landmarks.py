"""Landmarks by MediaPipe's FaceLandmarker, of one person who is tracked through a video.

MediaPipe is imported at first use: its import takes a second, and clips without masks do not need it.
Reference: https://ai.google.dev/edge/mediapipe/solutions/vision/face_landmarker (Tasks, running mode VIDEO).
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.prepare.landmarks import Face, FaceIn
from wanavatar_lab.errors import LabError, WeightsError
from wanavatar_lab.files import sha256_of
from wanavatar_lab.settings import read_settings
from wanavatar_lab.weights import find_weights
from wanavatar_lab.weights.table import download_command

WEIGHTS = "face-landmarker"
MOST_FACES = 4  # that are detected; with one, MediaPipe would choose the person by chance
REACH = 1.0  # farthest that a face moves between two detections, in widths of that face; one farther off is another's

# indices into MediaPipe's face mesh, from face_landmarker's FaceLandmarksConnections
OVAL_PLACES = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
OUTER_PLACES = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
INNER_PLACES = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)


class MediaPipeLandmarks:
    """Detects the face in the frames of any video; see `landmarks.LandmarkSource`.

    The largest face of the first frame with faces is tracked: in each later frame it is the one nearest to its last
    place, unless that is farther off than the face is wide. Then the person is not in the picture.

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
        self._identity = f"mediapipe {version('mediapipe')} {sha256_of(self.model)} {MOST_FACES} {REACH}"

    def identity(self, video: Path) -> str:
        """By MediaPipe's release and the model's contents."""
        return self._identity

    @contextmanager
    def follow(self, video: Path) -> Iterator[FaceIn]:
        """See `landmarks.LandmarkSource`.

        Raises:
            WeightsError: MediaPipe cannot use the model.
            LabError: a library of the system that MediaPipe links to is missing.
        """
        with naming_packages():
            import mediapipe
            from mediapipe.tasks.python import BaseOptions, vision

        options = vision.FaceLandmarkerOptions(
            # from memory, since MediaPipe's native code resolves paths by rules of its own
            base_options=BaseOptions(model_asset_buffer=self.model.read_bytes()),
            running_mode=vision.RunningMode.VIDEO,
            num_faces=MOST_FACES,
        )
        try:
            with naming_packages():  # its native code is loaded here
                landmarker = vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            raise WeightsError(
                f"MediaPipe cannot use {self.model} ({error}). {download_command(find_weights(WEIGHTS))}"
            ) from (error)
        last: Face | None = None

        def face_in(frame: NDArray[np.uint8], seconds: float) -> Face | None:
            nonlocal last
            height, width = frame.shape[:2]
            image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(frame))
            found = landmarker.detect_for_video(image, round(seconds * 1000))
            face = followed([_face(points, width, height) for points in found.face_landmarks], last)
            last = face or last
            return face

        with landmarker:
            yield face_in


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


def followed(faces: Sequence[Face], last: Face | None) -> Face | None:
    """Which of the faces is the person last seen; the largest if nobody was seen yet, None if it is none of them."""
    if not faces:
        return None
    if last is None:
        return max(faces, key=lambda face: face.width * face.height)

    def distance(face: Face) -> float:
        return float(np.linalg.norm(face.centre - last.centre))

    nearest = min(faces, key=distance)
    return nearest if distance(nearest) <= REACH * last.width else None


def _face(points: Sequence[object], width: int, height: int) -> Face:
    # MediaPipe's points are shares of the picture
    placed = np.array([(point.x * width, point.y * height) for point in points])  # type: ignore[attr-defined]
    oval, outer, inner = (placed[list(places)] for places in (OVAL_PLACES, OUTER_PLACES, INNER_PLACES))
    return Face(oval, outer, inner)
