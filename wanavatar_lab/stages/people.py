"""Who is in a picture or a recording: of several people each may speak, and the log says how to choose one."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from wanavatar_lab.errors import LabError, WeightsError
from wanavatar_lab.metrics.landmarks import Face
from wanavatar_lab.metrics.mediapipe_landmarks import MediaPipeLandmarks
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.stages.context import StageContext


def say_who_is_in(picture: Image.Image, request: SpeechToVideo, context: StageContext) -> None:
    """Log if there are several faces, and the box of each person; nothing where MediaPipe's model is not there."""
    if not context.ranks.leads:  # one process is enough to say it
        return
    try:
        source = MediaPipeLandmarks()
    except WeightsError:  # is not needed for speech
        return
    try:
        with source.everyone(Path(str(request.image))) as faces_in:
            faces = faces_in(np.asarray(picture), 0.0)
    except LabError as error:
        context.log(f"Whether image shows several people is not known. {error}")
        return
    left, top, *_ = request.box() or (0, 0)
    say_who_may_speak("image", faces, picture.size, context, (left, top))


def say_who_may_speak(
    name: str, faces: Sequence[Face], size: tuple[int, int], context: StageContext, begin: tuple[int, int] = (0, 0)
) -> None:
    """Log the box of each face in a picture of this width and height, which begins at (left, top) of a larger one."""
    if len(faces) > 1:
        boxes = [(x + begin[0], y + begin[1], width, height) for x, y, width, height in boxes_of(faces, size)]
        each = " or ".join(",".join(map(str, box)) for box in boxes)
        context.log(f"{name} shows {len(faces)} faces, any of which may speak. To choose one, set image_box to {each}.")


def boxes_of(faces: Sequence[Face], size: tuple[int, int]) -> list[tuple[int, int, int, int]]:
    """Left, top, width and height of the part of a picture of this width and height that has one face only, for each.

    It is cut half-way between neighbours, side by side or one above the other, whichever are farther apart.
    """
    centres = np.array([face.centre for face in faces])
    axis = int(np.ptp(centres[:, 1]) > np.ptp(centres[:, 0]))
    along = np.sort(centres[:, axis])
    edges = [0, *(round(float(edge)) for edge in (along[:-1] + along[1:]) / 2), size[axis]]
    spans = itertools.pairwise(edges)
    return [(0, a, size[0], b - a) if axis else (a, 0, b - a, size[1]) for a, b in spans]
