"""Sources of landmarks: the file beside a drawn video, and MediaPipe, of whose faces one person's are followed."""

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.training.faces import circle, face, lips
from training.pocket.world.attributes import usual
from training.pocket.world.figure import render, sheet_of
from training.pocket.world.motion import sample_motion
from training.pocket.world.truth import landmarks_of
from wanavatar_lab.errors import LabError, WeightsError
from wanavatar_lab.metrics.landmarks import (
    DrawnLandmarks,
    Face,
    VideoLandmarks,
    followed,
    read_landmarks,
    sidecar,
    write_landmarks,
)
from wanavatar_lab.metrics.mediapipe_landmarks import (
    INNER_PLACES,
    OUTER_PLACES,
    OVAL_PLACES,
    MediaPipeLandmarks,
    naming_packages,
)

# --- faces


def test_the_opening_is_measured_where_the_lips_part_furthest() -> None:
    edge = lips(0, 0, 10)
    assert edge[0] == pytest.approx([-10, 0]) and edge[5] == pytest.approx([0, 10])
    gap = 2 * (10 + 2 * 10 * np.cos(np.pi / 10)) / 3
    assert Face(circle(0, 0, 50), edge, edge).opening == pytest.approx(gap / 100)
    # of the outer lips, where the inner ones are not known
    assert Face(circle(0, 0, 50), 2 * edge).opening == pytest.approx(2 * gap / 100)


def test_points_that_are_none_are_refused() -> None:
    with pytest.raises(LabError, match=r"oval is \[35, 2\] points"):
        Face(circle(0, 0, 5, 35), circle(0, 0, 5, 20))
    with pytest.raises(LabError, match="lips_outer"):
        Face(circle(0, 0, 5), np.full((20, 2), np.nan))


# --- beside a drawn video


def known() -> VideoLandmarks:
    faces = [face(), None, Face(circle(30, 30, 20), circle(30, 40, 5, 20))]
    return VideoLandmarks(np.array([0.0, 0.04, 0.08]), faces, (128, 96))


def test_landmarks_are_read_as_they_were_written(tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    write_landmarks(video, known())
    read = read_landmarks(video)
    assert read.size == (128, 96) and read.faces[1] is None
    for one, other in zip(read.faces, known().faces, strict=True):
        if one is not None and other is not None:
            np.testing.assert_allclose(one.oval, other.oval, rtol=1e-6)
            assert (one.lips_inner is None) == (other.lips_inner is None)
    source = DrawnLandmarks()
    with source.follow(video) as face_in:
        frame = np.zeros((128, 96, 3), np.uint8)
        found = [face_in(frame, seconds) for seconds in (0.0, 0.019, 0.02, 0.021, 0.07, 9.0)]
        assert [None if each is None else round(each.width) for each in found] == [80, 80, 80, None, 40, 40]
        with pytest.raises(LabError, match=r"frames of 96×128 and the video has 64×64"):
            face_in(np.zeros((64, 64, 3), np.uint8), 0.0)
    before = source.identity(video)
    write_landmarks(video, VideoLandmarks(known().seconds, [None] * 3, (128, 96)))
    assert source.identity(video) != before


@given(st.floats(0, 0.2))
def test_the_nearest_frame_is_the_one_that_is_read(seconds: float) -> None:
    index = known().nearest(seconds)
    assert abs(known().seconds[index] - seconds) <= np.abs(known().seconds - seconds).min() + 1e-6


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04nothing", b"\x93NUMPY"])
def test_a_damaged_file_is_refused(tmp_path: Path, data: bytes) -> None:
    video = tmp_path / "a.mp4"
    with pytest.raises(LabError, match=r"no landmarks at .*--landmarks mediapipe"):
        read_landmarks(video)
    sidecar(video).write_bytes(data)
    with pytest.raises(LabError, match="is damaged"):
        read_landmarks(video)


# --- MediaPipe


def test_places_are_the_outlines_that_mediapipe_names() -> None:
    from mediapipe.tasks.python.vision import FaceLandmarksConnections as Connections

    def edges(places: tuple[int, ...]) -> set[frozenset[int]]:
        return {frozenset(pair) for pair in zip(places, (*places[1:], places[0]), strict=True)}

    assert edges(OVAL_PLACES) == {frozenset((c.start, c.end)) for c in Connections.FACE_LANDMARKS_FACE_OVAL}
    lips = {frozenset((c.start, c.end)) for c in Connections.FACE_LANDMARKS_LIPS}
    assert edges(OUTER_PLACES) | edges(INNER_PLACES) == lips


def test_without_the_model_the_command_that_gets_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        MediaPipeLandmarks()
    assert "`wanavatar-lab weights download face-landmarker` gets what is missing (3.8 MB in all)" in str(caught.value)
    assert str(tmp_path / "face_landmarker.task") in str(caught.value) and "--landmarks none" in str(caught.value)


def test_a_model_that_is_none_is_told(tmp_path: Path) -> None:
    model = tmp_path / "face_landmarker.task"
    model.write_bytes(b"no model")
    with (
        pytest.raises(WeightsError, match=r"MediaPipe cannot use .*weights download face-landmarker"),
        MediaPipeLandmarks(model).follow(tmp_path / "a.mp4"),
    ):
        pass


def test_one_person_is_followed() -> None:
    left, right = face(40, 60, 30), face(160, 60, 34)
    assert followed([], None) is None
    assert followed([left, right], None) is right, "the largest at first"
    moved = face(120, 62, 34)
    assert followed([left, moved], right) is moved
    assert followed([left], right) is None, "the other one is nobody to turn to"
    assert followed([face(170, 60, 12), left], right) is not left


def test_mediapipe_finds_a_drawn_face_where_it_is(tmp_path: Path, face_landmarker: Path) -> None:
    attributes, pose = usual(person="woman"), sample_motion(1, 6, seed=1).having(open=torch.linspace(0, 1, 6)[None])
    frames = (render(attributes, pose, (256, 256))[0] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    true = {name: each.numpy() for name, each in landmarks_of(sheet_of(attributes, pose), 256, 256).items()}
    source = MediaPipeLandmarks(face_landmarker)
    assert source.identity(tmp_path / "a.mp4").startswith("mediapipe ")
    with source.follow(tmp_path / "a.mp4") as face_in:
        found = [face_in(frame, k / 16) for k, frame in enumerate(frames)]
        assert face_in(np.full((256, 256, 3), 90, np.uint8), 1.0) is None
    openings = []
    for k, one in enumerate(found):
        assert one is not None and one.lips_inner is not None
        corners = true["mouth_corners"][k]
        width = np.linalg.norm(corners[1] - corners[0])
        assert np.linalg.norm(one.lips_outer.mean(axis=0) - true["lips_outer"][k].mean(axis=0)) < 0.25 * width
        # the same point first: the corner at the left of the picture, the top of the forehead
        assert np.linalg.norm(one.lips_outer[0] - corners[0]) < 0.35 * width
        assert one.oval[0, 1] < one.oval[:, 1].mean() < one.oval[18, 1]
        openings.append(one.opening)
    assert np.corrcoef(openings, np.linspace(0, 1, 6))[0, 1] > 0.9


@pytest.mark.parametrize("library", ["libGL.so.1", "libEGL.so.1", "libGLESv2.so.2"])
@pytest.mark.parametrize("kind", [ImportError, OSError])
def test_a_slim_container_is_told_which_packages_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, kind: type[Exception]
) -> None:
    (tmp_path / "face.task").write_bytes(b"a model")
    load = builtins.__import__

    def without(name: str, *words: Any, **more: Any) -> Any:
        if name.startswith("mediapipe"):
            raise kind(f"{library}: cannot open shared object file: No such file or directory")
        return load(name, *words, **more)

    source = MediaPipeLandmarks(tmp_path / "face.task")
    monkeypatch.setattr(builtins, "__import__", without)
    told = pytest.raises(LabError, match=f"^MediaPipe needs {library}, .* libgl1 libegl1 libgles2")
    with told, source.follow(tmp_path / "a.mp4"):
        pass


def test_another_failure_to_import_stays_what_it_is() -> None:
    with pytest.raises(ImportError, match="no such module"), naming_packages():
        raise ImportError("no such module")
