"""Landmarks by MediaPipe's FaceLandmarker, of one person who is followed through a video.

MediaPipe is imported when it is used: it takes a second, and who cuts clips without masks does not need it.
Reference: https://ai.google.dev/edge/mediapipe/solutions/vision/face_landmarker (Tasks, running mode VIDEO).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.prepare.landmarks import Face, FaceIn
from wanavatar_lab.errors import WeightsError
from wanavatar_lab.settings import read_settings
from wanavatar_lab.weights import find_weights
from wanavatar_lab.weights.download import sha256_of
from wanavatar_lab.weights.table import download_command

WEIGHTS = "face-landmarker"
# Several faces are looked for, so that the one that is followed is chosen here and not by chance.
MOST_FACES = 4
# A face belongs to the person who was last seen if it is no further than this from there, in widths of that face.
REACH = 1.0

# Places in MediaPipe's face mesh, from face_landmarker's FaceLandmarksConnections.
OVAL_PLACES = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)
OUTER_PLACES = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
INNER_PLACES = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 415, 310, 311, 312, 13, 82, 81, 80, 191)


class MediaPipeLandmarks:
    """Finds the face in the frames of any video; see `landmarks.LandmarkSource`.

    The largest face of the first frame that has one is followed: in each later frame the nearest to where it was last
    seen, unless that is further off than the face is wide. Then the person is not in the picture.

    Args:
        model: the `.task` file; None takes the one in the weights folder.

    Raises:
        WeightsError: it is not there; the text has the command that gets it.
    """

    def __init__(self, model: Path | None = None) -> None:
        entry = find_weights(WEIGHTS)
        self.model = model or entry.path(read_settings().weights_dir)
        if not self.model.is_file():
            raise WeightsError(
                f"Faces are found by MediaPipe's {entry.place}, which is not at {self.model}. "
                f"{download_command(entry)} "
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
        """
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision

        options = vision.FaceLandmarkerOptions(
            # from memory, since the native code reads paths by rules of its own
            base_options=BaseOptions(model_asset_buffer=self.model.read_bytes()),
            running_mode=vision.RunningMode.VIDEO,
            num_faces=MOST_FACES,
        )
        try:
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


def followed(faces: Sequence[Face], last: Face | None) -> Face | None:
    """Which of the faces is the person who was last seen; the largest where nobody was yet, None if it is none."""
    if not faces:
        return None
    if last is None:
        return max(faces, key=lambda face: face.width * face.height)

    def away(face: Face) -> float:
        return float(np.linalg.norm(face.centre - last.centre))

    nearest = min(faces, key=away)
    return nearest if away(nearest) <= REACH * last.width else None


def _face(points: Sequence[object], width: int, height: int) -> Face:
    # MediaPipe gives shares of the picture
    placed = np.array([(point.x * width, point.y * height) for point in points])  # type: ignore[attr-defined]
    oval, outer, inner = (placed[list(places)] for places in (OVAL_PLACES, OUTER_PLACES, INNER_PLACES))
    return Face(oval, outer, inner)
