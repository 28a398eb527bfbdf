"""How much each patch of latents counts in training: more at the head, most where a face says what a prompt asks for.

A prompt says most of its words about what covers the least of the picture: lipstick, earrings, freckles, a smile.
"""

from functools import cache

import torch
from torch import Tensor

from training.pocket.world.cells import CELL, FEATURES, cells_with
from training.pocket.world.face import ear_place
from training.pocket.world.rig import Field, Rig
from training.pocket.world.sheet import Sheet
from training.pocket.world.truth import landmarks_of

PATCH = CELL  # pixels of a patch's side: the VAE halves a picture twice, and patches are of 2x2
FEATURE_WEIGHT = 4.0  # a patch with a feature counts 1 + this where one without counts 1
# by the names of the landmarks; an eye's rim alone would leave out a patch that lies all within it
LANDMARKS = (*FEATURES, "left_iris", "right_iris")
# where freckles lie on a cheek, about its middle, and earrings below the middle of an ear
_CHEEK_X, _CHEEK_Y = (-0.07, 0.0, 0.07), (-0.045, 0.0, 0.03)
_EAR_X, _EAR_Y = (-0.06, 0.0, 0.06), (0.08, 0.15, 0.22)

Points = tuple[Tensor, Tensor]


def feature_patches(sheet: Sheet, size: tuple[int, int]) -> Tensor:
    """In which patches an eye, a brow, the lips, a cheek or the place of an earring is, bool [M, patches].

    Whether it has freckles, or an earring, and whether hair is over it: that there are none is to be learnt as well.

    Args:
        sheet: M frames.
        size: height and width of the pictures in pixels; patches are in rows from the top left, as the pipeline's.
    """
    rig = Rig(sheet, *size)
    landmarks = landmarks_of(sheet, *size)
    placed = [rig.head_to_picture(*points) for points in (_cheeks(sheet, rig), _ears(sheet, rig))]
    points = torch.cat([landmarks[name] for name in LANDMARKS] + [torch.stack(xy, dim=-1) for xy in placed], dim=1)
    return cells_with(points, size).flatten(1)


def weighted(error: Tensor, features: Tensor, grid: tuple[int, int]) -> Tensor:
    """The error of each picture [B], a weighted mean of that of its patches [B, patches].

    Args:
        features: 1 in patches with a feature, 0 in others, or how often one is there; [B, patches], or [patches] for
            all alike.
        grid: rows and columns of the patches.
    """
    weights = counted(grid, error.device) * (1 + FEATURE_WEIGHT * features)
    return (error * weights).sum(dim=-1) / weights.sum(dim=-1)


@cache
def counted(grid: tuple[int, int], device: torch.device) -> Tensor:
    """How much each patch of `grid` counts whoever is drawn, [patches], 1 on average: three times more at the head."""
    short = min(grid)
    y, x = ((torch.arange(side, device=device) + 0.5 - side / 2) / (short / 2) for side in grid)
    near = torch.exp(-((x / 0.5) ** 2)) * torch.exp(-(((y[:, None] + 0.1) / 0.55) ** 2))
    weight = 1 + 2 * near.flatten()
    return weight / weight.mean()


def _cheeks(sheet: Sheet, rig: Rig) -> Points:
    """Points of both cheeks in the head's frame, [M, K] each."""
    x, y = (offset.flatten() for offset in _offsets(_CHEEK_X, _CHEEK_Y, sheet))
    out, down = sheet.vector("eye_x") + x, sheet.vector("nose_y") + 0.01 + y
    return rig.face_to_head(torch.cat([-out, out], dim=1), torch.cat([down, down], dim=1))


def _ears(sheet: Sheet, rig: Rig) -> Points:
    """Points of what hangs from both ears in the head's frame, [M, K] each."""
    x, y = _offsets(_EAR_X, _EAR_Y, sheet)
    both = []
    for side in (-1.0, 1.0):
        # `ear_place` says how far a point is from the ear, so what it says of a point at hand tells where the ear is
        here = torch.full_like(sheet["ear_size"], side)
        beyond, below = ear_place(sheet, rig, Field(here, torch.zeros_like(here), torch.ones_like(here)))
        both.append(((side * (1 - beyond + x)).flatten(1), (y - below).flatten(1)))
    (left, down), (right, _) = both
    return torch.cat([left, right], dim=1), torch.cat([down, down], dim=1)


def _offsets(x: tuple[float, ...], y: tuple[float, ...], sheet: Sheet) -> tuple[Tensor, ...]:
    """Every `x` with every `y`, [rows, columns] each, on the sheet's device."""
    return torch.meshgrid(*(torch.tensor(part, device=sheet.values.device) for part in (x, y)), indexing="xy")
