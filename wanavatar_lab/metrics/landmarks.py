"""Face landmarks in the frames of a video, from one of several sources behind one small interface.

    with source.everyone(video) as faces_in:
        faces = faces_in(frame, seconds)   # successive frames, in the order of time; as many as are in it
    with source.follow(video) as face_in:
        face = face_in(frame, seconds)     # of one person; None without a face

`mediapipe_landmarks.MediaPipeLandmarks` detects them in any video. `DrawnLandmarks` reads them from a file beside a
drawn video, so that all later steps can be tested against the truth. `NoLandmarks` has none: clips are cut without a
landmark model, and all their frames are invalid.

Points are pixels (x, y); (0, 0) is the upper left corner of the picture and (0.5, 0.5) the centre of its first pixel.
They are in MediaPipe's order: the oval clockwise from the top of the forehead, the lips from the corner at the left of
the picture along the lower lip to the other corner and back along the upper lip.
"""

import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wanavatar_lab.errors import LabError
from wanavatar_lab.files import sha256_of, whole_file

Points = NDArray[np.float64]
OVAL, LIPS, MARKS = 36, 20, 5  # points
REACH = 1.0  # farthest that a face moves between two frames, in widths of that face; one farther off is another's
PATIENCE = 0.5  # seconds without the followed person, after which the largest face is followed instead
SIDECAR = ".landmarks.npz"


@dataclass(frozen=True, eq=False)
class Face:
    """The landmarks of a face in a frame, in pixels.

    Attributes:
        oval: [36, 2], around the face.
        lips_outer: [20, 2], the outer edge of the lips.
        lips_inner: [20, 2], the inner edge; None if the source does not have it.
        marks: [5, 2], the eye at the left of the picture, the other eye, the tip of the nose, and the corners of the
            mouth from the left; None if the source does not have them.
    """

    oval: Points
    lips_outer: Points
    lips_inner: Points | None = None
    marks: Points | None = None

    def __post_init__(self) -> None:
        for name, points, count in (
            ("oval", self.oval, OVAL),
            ("lips_outer", self.lips_outer, LIPS),
            ("lips_inner", self.lips_inner, LIPS),
            ("marks", self.marks, MARKS),
        ):
            if points is not None and (points.shape != (count, 2) or not np.isfinite(points).all()):
                raise LabError(f"{name} is {list(points.shape)} points; it must be [{count}, 2] and all finite.")

    def seen_from(self, left: float, top: float) -> "Face":
        """The same face in the part of the picture that begins at (left, top)."""
        outlines = (self.oval, self.lips_outer, self.lips_inner, self.marks)
        return Face(*(None if points is None else points - (left, top) for points in outlines))  # type: ignore[arg-type]

    @property
    def centre(self) -> Points:
        """The centre of the oval, [2]."""
        return (self.oval.min(axis=0) + self.oval.max(axis=0)) / 2

    @property
    def width(self) -> float:
        """From the left edge of the oval to the right one, pixels."""
        return float(np.ptp(self.oval[:, 0]))

    @property
    def height(self) -> float:
        """From the forehead's first point to the chin, pixels; it does not change when the head is tilted."""
        return float(np.linalg.norm(self.oval[OVAL // 2] - self.oval[0]))

    @property
    def opening(self) -> float:
        """The gap between the lips about their middle, as a share of the face's height.

        Between the inner edges, or between the outer ones if the inner ones are not known.
        """
        lips = self.lips_outer if self.lips_inner is None else self.lips_inner
        middle = np.arange(LIPS // 4 - 1, LIPS // 4 + 2)
        # the lower lip is numbered from one corner and the upper from the other: opposite points sum to LIPS
        gap = np.linalg.norm(lips[middle] - lips[LIPS - middle], axis=1).mean()
        return float(gap / max(self.height, 1e-6))


FaceIn = Callable[[NDArray[np.uint8], float], Face | None]
FacesIn = Callable[[NDArray[np.uint8], float], Sequence[Face]]


class LandmarkSource(ABC):
    """A source of face landmarks."""

    @abstractmethod
    def everyone(self, video: Path) -> AbstractContextManager[FacesIn]:
        """A context that gives a function of a frame, uint8 [H, W, 3], and its time in seconds.

        Call it in the order of time. It returns the faces in the frame in no particular order.
        """

    @abstractmethod
    def identity(self, video: Path) -> str:
        """All besides the frames that its results depend on, so that clips are made again when that changes."""

    @contextmanager
    def follow(self, video: Path) -> Iterator[FaceIn]:
        """As `everyone`, but the function returns the face of one person, or None where they are not in the frame.

        The largest face of the first frame with faces is followed: later it is the one nearest to its last place,
        unless that is farther off than the face is wide. After half a second without the person, as after a cut, the
        largest face is followed.
        """
        last: tuple[float, Face] | None = None
        with self.everyone(video) as faces_in:

            def face_in(frame: NDArray[np.uint8], seconds: float) -> Face | None:
                nonlocal last
                known = last[1] if last and seconds - last[0] <= PATIENCE else None
                face = followed(faces_in(frame, seconds), known)
                last = (seconds, face) if face else last
                return face

            yield face_in


def followed(faces: Sequence[Face], last: Face | None) -> Face | None:
    """Which of the faces is the person last seen; the largest if nobody was seen yet, None if it is none of them."""
    if not faces:
        return None
    if last is None:
        return max(faces, key=lambda face: face.width * face.height)
    nearest = min(faces, key=lambda face: apart(face, last))
    return nearest if apart(nearest, last) <= REACH else None


def apart(face: Face, last: Face) -> float:
    """The distance between the centres of two faces, in widths of the second."""
    return float(np.linalg.norm(face.centre - last.centre)) / max(last.width, 1e-6)


class DrawnLandmarks(LandmarkSource):
    """Landmarks from the file that `write_landmarks` wrote beside a drawn video."""

    def identity(self, video: Path) -> str:
        """By the contents of that file."""
        return f"drawn {sha256_of(_existing_sidecar(video))}"

    @contextmanager
    def everyone(self, video: Path) -> Iterator[FacesIn]:
        """See `LandmarkSource`.

        Raises:
            LabError: the file is missing or damaged, or (from the function) the frames have another size.
        """
        known = read_landmarks(video)

        def faces_in(frame: NDArray[np.uint8], seconds: float) -> Sequence[Face]:
            if frame.shape[:2] != known.size:
                raise LabError(
                    f"{sidecar(video)} is of frames of {known.size[1]}×{known.size[0]} and the video has "
                    f"{frame.shape[1]}×{frame.shape[0]}. Draw the video again, with its landmarks."
                )
            face = known.faces[known.nearest(seconds)]
            return [] if face is None else [face]

        yield faces_in


class NoLandmarks(LandmarkSource):
    """No face in any frame: clips are cut, and all their frames are invalid."""

    def identity(self, video: Path) -> str:
        """Always the same."""
        return "none"

    @contextmanager
    def everyone(self, video: Path) -> Iterator[FacesIn]:
        """See `LandmarkSource`."""
        yield lambda frame, seconds: ()


@dataclass(frozen=True)
class VideoLandmarks:
    """The landmarks of a video: times of its frames in `seconds` [F], the `faces` in them, and (height, width)."""

    seconds: NDArray[np.float64]
    faces: Sequence[Face | None]
    size: tuple[int, int]

    def nearest(self, seconds: float) -> int:
        """The frame nearest to a time; of two equally near ones the earlier, as `media.read_frames` chooses."""
        return int(np.argmin(np.abs(self.seconds - seconds) + 1e-9 * np.arange(len(self.seconds))))


def sidecar(video: Path) -> Path:
    """The file with the landmarks of a drawn video."""
    return video.with_name(video.name + SIDECAR)


def write_landmarks(video: Path, known: VideoLandmarks) -> None:
    """Write the landmarks of a video beside it, atomically.

    Raises:
        LabError: the numbers of faces and times differ.
    """
    if len(known.faces) != len(known.seconds):
        raise LabError(f"There are {len(known.faces)} faces and {len(known.seconds)} times for {video}.")

    def track(name: str, points: int) -> NDArray[np.float32]:
        missing = np.full((points, 2), np.nan)
        rows = [None if face is None else getattr(face, name) for face in known.faces]
        return np.stack([missing if row is None else row for row in rows]).astype(np.float32)

    tracks = {"face_oval": track("oval", OVAL)} | {name: track(name, LIPS) for name in ("lips_outer", "lips_inner")}
    with whole_file(sidecar(video)) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, allow_pickle=False, seconds=known.seconds, size=np.array(known.size), **tracks)


def read_landmarks(video: Path) -> VideoLandmarks:
    """The landmarks beside a drawn video.

    Raises:
        LabError: there are none, or the file is damaged.
    """
    path = _existing_sidecar(video)
    try:
        with np.load(path, allow_pickle=False) as stored:
            seconds = stored["seconds"].astype(np.float64)
            height, width = stored["size"].tolist()
            oval, outer, inner = (stored[name].astype(np.float64) for name in ("face_oval", "lips_outer", "lips_inner"))
        if not len(seconds) == len(oval) == len(outer) == len(inner) or not len(seconds):
            raise ValueError("its tracks differ in length")
        faces = [
            None if np.isnan(oval[i]).any() else Face(oval[i], outer[i], None if np.isnan(inner[i]).any() else inner[i])
            for i in range(len(seconds))
        ]
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error, LabError) as error:
        raise LabError(f"{path} is damaged ({error}). Draw the video again, with its landmarks.") from error
    return VideoLandmarks(seconds, faces, (height, width))


def _existing_sidecar(video: Path) -> Path:
    path = sidecar(video)
    if not path.is_file():
        raise LabError(
            f"There are no landmarks at {path}; `python -m training.pocket.drawn_person` writes them beside the videos "
            "that it draws. For other videos use `--landmarks mediapipe`."
        )
    return path
