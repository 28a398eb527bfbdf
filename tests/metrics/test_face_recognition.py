"""Likeness of faces: the crop by the marks, cosines of a network of known output, and the true one if installed."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.real_face import HEAD, portrait, scaled, talking_video, voice
from wanavatar_lab.errors import WeightsError
from wanavatar_lab.metrics.evaluate import evaluate
from wanavatar_lab.metrics.face_recognition import WEIGHTS, FaceRecognizer
from wanavatar_lab.metrics.landmarks import Face
from wanavatar_lab.metrics.mediapipe_landmarks import MediaPipeLandmarks
from wanavatar_lab.weights import find_weights

CELLS = 4  # the toy network's output is the mean colours of so many cells along a side of its 112 pixels


def toy_network(path: Path) -> Path:
    """An ONNX file of an average pooling, written in protobuf's wire format since the package `onnx` is not needed."""

    def varint(value: int) -> bytes:
        more = b""
        while value > 127:
            more, value = more + bytes([value & 127 | 128]), value >> 7
        return more + bytes([value])

    def number(field: int, value: int) -> bytes:
        return varint(field << 3) + varint(value)

    def part(field: int, value: bytes | str) -> bytes:
        data = value.encode() if isinstance(value, str) else value
        return varint(field << 3 | 2) + varint(len(data)) + data

    def tensor(name: str, *shape: int) -> bytes:
        dims = b"".join(part(1, number(1, size)) for size in shape)
        return part(1, name) + part(2, part(1, number(1, 1) + part(2, dims)))

    side = 112 // CELLS
    attributes = b"".join(
        part(5, part(1, name) + number(20, 7) + number(8, side) * 2) for name in ("kernel_shape", "strides")
    )
    pool = part(1, "data") + part(2, "pooled") + part(3, "pool") + part(4, "AveragePool") + attributes
    axis = part(5, part(1, "axis") + number(20, 2) + number(3, 1))
    flat = part(1, "pooled") + part(2, "fc1") + part(3, "flat") + part(4, "Flatten") + axis
    ends = part(11, tensor("data", 1, 3, 112, 112)) + part(12, tensor("fc1", 1, 3 * CELLS**2))
    graph = part(1, pool) + part(1, flat) + part(2, "toy") + ends
    path.write_bytes(number(1, 7) + part(7, graph) + part(8, part(1, "") + number(2, 13)))
    return path


def face_of(picture: NDArray[np.uint8], model: Path) -> Face:
    with MediaPipeLandmarks(model).follow(Path("picture")) as face_in:
        face = face_in(picture, 0.0)
    assert face is not None and face.marks is not None
    return face


def turned(picture: NDArray[np.uint8], degrees: float, scale: float) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, scale)
    return np.asarray(cv2.warpAffine(picture, matrix, (width, height), flags=cv2.INTER_AREA))


def test_marks_sit_on_eyes_nose_and_mouth(face_landmarker: Path) -> None:
    face = face_of(portrait(), face_landmarker)
    assert face.marks is not None
    left, right, nose, *corners = face.marks
    assert left[0] < nose[0] < right[0] and max(left[1], right[1]) < nose[1] < min(corners[0][1], corners[1][1])
    assert corners[0] == pytest.approx(face.lips_outer[0]) and corners[1] == pytest.approx(face.lips_outer[10])
    assert face.seen_from(10, 20).marks == pytest.approx(face.marks - (10, 20))


def test_a_face_is_the_same_one_turned_smaller_and_elsewhere(tmp_path: Path, face_landmarker: Path) -> None:
    recognizer = FaceRecognizer(toy_network(tmp_path / "toy.onnx"))
    left, top, side = HEAD
    near = portrait()[top : top + side, left : left + side]
    other = near[..., ::-1].copy()  # somebody of another colour
    same, turned_, coloured = (
        recognizer.embed(picture, face_of(picture, face_landmarker))
        for picture in (portrait(), turned(scaled(near, 400, 400), 12, 0.7), other)
    )
    assert same is not None and turned_ is not None and coloured is not None
    # without the alignment, cells would show other parts of the face
    assert same.shape == (3 * CELLS**2,) and np.linalg.norm(same) == pytest.approx(1)
    assert same @ turned_ > 0.999 > 0.97 > same @ coloured


def test_the_likeness_of_a_clip_is_that_of_its_parts(
    tmp_path: Path, face_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_network(face_weights / str(find_weights(WEIGHTS).place))
    found = evaluate(talking_video(tmp_path / "clip.mp4", voice(4)))
    assert found.identity is not None and found.notes == []
    first, second = found.identity.likeness
    assert first == pytest.approx(1) and second is not None and second > 0.995
    assert found.measures()["face_likeness"] == min(first, second)  # type: ignore[type-var]


def test_a_file_that_is_no_network_says_what_gets_it(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    with pytest.raises(WeightsError, match=r"cannot use .*broken\.onnx.*weights download face-recognition"):
        FaceRecognizer(tmp_path / "broken.onnx")


def test_the_true_network_knows_a_face_again(face_landmarker: Path) -> None:
    model = Path("weights").absolute() / str(find_weights(WEIGHTS).place)
    if not model.is_file():
        pytest.skip(f"needs {model}: `wanavatar-lab weights download face-recognition`")
    recognizer = FaceRecognizer(model)
    pictures = portrait(), turned(portrait(), 10, 0.8)
    same, again = (recognizer.embed(picture, face_of(picture, face_landmarker)) for picture in pictures)
    assert same is not None and again is not None and same @ again > 0.363
