"""Masks against the polygons they are of, and what a frame without a face gets."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.training.faces import circle, face
from training.pocket.world.attributes import usual
from training.pocket.world.pose import Pose
from training.pocket.world.truth import truth
from training.prepare.draw_masks import Dilation, MaskMaker, dilate, draw_mask, fill_polygon
from wanavatar_lab.metrics.landmarks import Face


def area(outline: NDArray[np.float64]) -> float:
    x, y = outline.T
    return float(abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2)


def test_pixels_of_a_rectangle_by_hand() -> None:
    # middles at 2.5, 3.5, 4.5 lie between 2 and 5; of 2.5 to 4.5 the first one is on the edge
    mask = draw_mask([(2, 1), (5, 1), (5, 3), (2, 3)], (4, 6))
    assert mask.dtype == np.uint8 and set(np.unique(mask)) == {0, 255}
    assert np.argwhere(mask).tolist() == [[1, 2], [1, 3], [1, 4], [2, 2], [2, 3], [2, 4]]
    assert fill_polygon([(-5, -5), (20, -5), (20, 20), (-5, 20)], (4, 6)).all()
    assert not fill_polygon([(10, 1), (12, 1), (12, 3)], (4, 6)).any()


@given(st.floats(30, 98), st.floats(30, 98), st.floats(3, 28), st.integers(5, 40))
def test_a_mask_has_the_area_of_its_polygon(x: float, y: float, radius: float, count: int) -> None:
    outline = circle(x, y, radius, count)
    # by how much it may be off, at most: half a pixel along the outline
    assert (fill_polygon(outline, (128, 128)) > 0).sum() == pytest.approx(area(outline), abs=np.pi * radius)
    # the other way around it is the same
    assert (fill_polygon(outline, (128, 128)) == fill_polygon(outline[::-1], (128, 128))).all()


def test_masks_are_neither_larger_nor_smaller_than_polygons_on_average() -> None:
    shifts = np.random.default_rng(0).random((200, 2))
    areas = [(fill_polygon(circle(20, 20, 12, 20) + shift, (40, 40)) > 0).sum() for shift in shifts]
    assert np.mean(areas) == pytest.approx(area(circle(20, 20, 12, 20)), rel=0.003)


def test_an_outline_that_crosses_itself_has_no_hole() -> None:
    # twice around the same square
    square = [(2, 2), (8, 2), (8, 8), (2, 8)]
    assert (fill_polygon(square * 2, (10, 10)) > 0).sum() == 36


@given(st.floats(0, 6), st.integers(0, 2**16))
def test_dilation_is_that_of_a_disc(radius: float, seed: int) -> None:
    mask = np.random.default_rng(seed).random((17, 23)) < 0.02
    rows, columns = np.mgrid[:17, :23]
    wanted = mask.copy()
    for row, column in np.argwhere(mask):
        wanted |= (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    assert (dilate(np.where(mask, np.uint8(255), np.uint8(0)), radius) == 255 * wanted).all()


def test_masks_are_those_of_the_drawn_world() -> None:
    pose = Pose.of(1, 1, {"open": 0.6, "yaw": 0.2, "roll": 0.15})
    known = truth(usual(), pose, (128, 128))
    points = {name: each[0, 0].double().numpy() for name, each in known.landmarks.items()}
    maker = MaskMaker((128, 128), Dilation(0, 0), "invalid")
    made = maker.of(Face(points["face_oval"], points["lips_outer"], points["lips_inner"]))
    for mask, soft in ((made.face, known.face_mask[0, 0]), (made.lips, known.lip_mask[0, 0])):
        inside, wanted = mask > 0, soft.numpy() > 0.5
        assert (inside & wanted).sum() / (inside | wanted).sum() > 0.93


def test_masks_grow_with_the_face() -> None:
    plain, grown = (MaskMaker((128, 128), dilation, "invalid").of(face()) for dilation in (Dilation(0, 0), Dilation()))
    # a fiftieth of 80 pixels is 1.6, and a disc of that reach takes in one pixel at every side
    assert np.ptp(np.argwhere(grown.face)[:, 0]) == np.ptp(np.argwhere(plain.face)[:, 0]) + 2
    assert (grown.lips[plain.lips > 0] == 255).all() and grown.valid


def test_a_frame_without_a_face_is_invalid() -> None:
    maker = MaskMaker((64, 48), Dilation(), "invalid")
    maker.of(face())
    missing = maker.of(None)
    assert not missing.valid and not missing.face.any() and not missing.lips.any()
    assert missing.face.shape == (64, 48)


def test_the_predecessors_rule_is_kept_where_it_is_asked_for() -> None:
    maker = MaskMaker((128, 128), Dilation(), "previous")
    first, seen, later = maker.of(None), maker.of(face()), maker.of(None)
    assert (first.face == 255).all() and (first.lips == 255).all() and first.valid
    assert (later.face == seen.face).all() and (later.lips == seen.lips).all() and later.valid
