"""Masks against the polygons they are of, and their soft edges."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.training.faces import circle
from wanavatar_lab.metrics.face_masks import dilate, draw_mask, feather, fill_polygon


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


@pytest.mark.parametrize("inside", [True, False])
def test_a_soft_edge_is_on_one_side_of_the_outline_and_as_wide_as_asked(inside: bool) -> None:
    disc = draw_mask(circle(32, 32, 16, 60), (64, 64))
    soft = feather(disc, 6.0, inside=inside)
    assert soft.dtype == np.float32 and soft.min() == 0 and soft.max() == 1
    rows, columns = np.mgrid[:64, :64] + 0.5
    radius = np.hypot(rows - 32, columns - 32)
    whole, nothing = (9, 17) if inside else (16, 24)
    assert (soft[radius < whole] == 1).all() and (soft[radius > nothing] == 0).all()
    assert (soft[disc == 0] == 0).all() if inside else (soft[disc > 0] == 1).all()
    along = soft[32, 32:]
    assert (np.diff(along) <= 0).all() and np.abs(np.diff(along)).max() < 0.3


def test_all_and_nothing_have_no_edge() -> None:
    for level in (0, 255):
        for inside in (True, False):
            assert (feather(np.full((4, 5), level, np.uint8), 3.0, inside=inside) == level / 255).all()
