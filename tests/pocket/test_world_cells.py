"""In which cells a face's features are, held against landmarks one by one."""

import numpy as np
import torch

from training.pocket.world.attributes import sample_attributes
from training.pocket.world.cells import CELL, FEATURES, cells_with, feature_cells
from training.pocket.world.figure import sheet_of
from training.pocket.world.motion import sample_motion
from training.pocket.world.truth import truth

SIZE = 64


def test_features_are_where_the_eyes_the_brows_and_the_lips_are() -> None:
    attributes = sample_attributes(3, 1)
    pose = sample_motion(3, 2, 1, [("zoom in",), ("pan up",), ("nod",)])
    cells = feature_cells(sheet_of(attributes, pose), SIZE).unflatten(0, (3, 2))
    landmarks = truth(attributes, pose, (SIZE, SIZE)).landmarks
    expected = torch.zeros_like(cells)
    for name in FEATURES:
        for (i, frame, _), (x, y) in zip(
            np.ndindex(*landmarks[name].shape[:3]), landmarks[name].flatten(0, 2).tolist(), strict=True
        ):
            if 0 <= x < SIZE and 0 <= y < SIZE:
                expected[i, frame, int(y // CELL), int(x // CELL)] = True
    assert torch.equal(cells, expected)
    assert 0 < cells.float().mean() < 0.5


def test_points_outside_of_a_picture_are_in_no_cell() -> None:
    points = torch.tensor([[[-0.1, 4.0], [12.0, 20.0], [40.0, 4.0], [4.0, 24.0]]])
    cells = cells_with(points, (24, 40))
    assert cells.shape == (1, 3, 5)
    assert cells.nonzero().tolist() == [[0, 2, 1]]
