"""Latent cells that contain facial features: each cell of a picture is one position of an autoencoder's latents."""

import torch
from torch import Tensor

from training.pocket.world.sheet import Sheet
from training.pocket.world.truth import landmarks_of

CELL = 8  # width and height of a cell in pixels: the spatial stride of all toy autoencoders
# the moving parts of a face, by landmark name
FEATURES = ("left_eye", "right_eye", "left_brow", "right_brow", "lips_outer")


def feature_cells(sheet: Sheet, size: int) -> Tensor:
    """Cells with an eye, a brow or the lips, in square pictures of `size` pixels: bool [M, size/8, size/8]."""
    landmarks = landmarks_of(sheet, size, size)
    return cells_with(torch.cat([landmarks[name] for name in FEATURES], dim=1), (size, size))


def cells_with(points: Tensor, size: tuple[int, int]) -> Tensor:
    """Cells that contain a point, bool [M, rows, columns]; points outside the picture are ignored.

    Args:
        points: (x, y) in pixels, [M, K, 2].
        size: height and width of the pictures in pixels.
    """
    rows, columns = (side // CELL for side in size)
    column, row = (points / CELL).floor().long().unbind(-1)
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    place = row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)
    found = torch.zeros(len(points), rows * columns, device=points.device)
    found.scatter_reduce_(1, place, inside.float(), reduce="amax")
    return found.bool().unflatten(1, (rows, columns))
