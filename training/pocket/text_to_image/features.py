"""Loss weights per latent patch: higher at the head, highest at facial features that prompts describe.

Most words of a prompt are about the smallest parts of the picture: lipstick, earrings, freckles, a smile.
"""

from functools import cache

import torch
from torch import Tensor

from training.pocket.world.cells import CELL, FEATURES, cells_with
from training.pocket.world.face import ear_place
from training.pocket.world.rig import Field, Rig
from training.pocket.world.sheet import Sheet
from training.pocket.world.truth import landmarks_of

PATCH = CELL  # pixels per side of a patch: the VAE downsamples 4x, and patches are 2x2 latents
FEATURE_WEIGHT = 4.0  # a patch with a feature has the weight 1 + this, others 1
# by landmark name; the iris covers a patch that is entirely inside the rim of an eye
LANDMARKS = (*FEATURES, "left_iris", "right_iris")
# offsets of freckles from the middle of a cheek, and of earrings from the middle of an ear
_CHEEK_X, _CHEEK_Y = (-0.07, 0.0, 0.07), (-0.045, 0.0, 0.03)
_EAR_X, _EAR_Y = (-0.06, 0.0, 0.06), (0.08, 0.15, 0.22)

Points = tuple[Tensor, Tensor]


def feature_patches(sheet: Sheet, size: tuple[int, int]) -> Tensor:
    """Patches with an eye, a brow, the lips, a cheek or the position of an earring, bool [M, patches].

    Independent of whether freckles or earrings are visible there: their absence has to be learnt too.

    Args:
        sheet: M frames.
        size: height and width of the pictures in pixels; patches in row-major order, as in the pipeline.
    """
    rig = Rig(sheet, *size)
    landmarks = landmarks_of(sheet, *size)
    placed = [rig.head_to_picture(*points) for points in (_cheeks(sheet, rig), _ears(sheet, rig))]
    points = torch.cat([landmarks[name] for name in LANDMARKS] + [torch.stack(xy, dim=-1) for xy in placed], dim=1)
    return cells_with(points, size).flatten(1)


def weighted(error: Tensor, features: Tensor, grid: tuple[int, int]) -> Tensor:
    """Weighted mean error of each picture [B], from the errors of its patches [B, patches].

    Args:
        features: 1 in patches with a feature, 0 in others, or the frequency of one there; [B, patches], or [patches]
            shared by all pictures.
        grid: rows and columns of the patches.
    """
    weights = counted(grid, error.device) * (1 + FEATURE_WEIGHT * features)
    return (error * weights).sum(dim=-1) / weights.sum(dim=-1)


@cache
def counted(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Base weight of each patch of `grid`, [patches], 1 on average: three times higher at the head."""
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
    """Points of both earrings in the head's frame, [M, K] each."""
    x, y = _offsets(_EAR_X, _EAR_Y, sheet)
    both = []
    for side in (-1.0, 1.0):
        # `ear_place` gives a point's offset from the ear, so that a known point gives the ear's position
        here = torch.full_like(sheet["ear_size"], side)
        beyond, below = ear_place(sheet, rig, Field(here, torch.zeros_like(here), torch.ones_like(here)))
        both.append(((side * (1 - beyond + x)).flatten(1), (y - below).flatten(1)))
    (left, down), (right, _) = both
    return torch.cat([left, right], dim=1), torch.cat([down, down], dim=1)


def _offsets(x: tuple[float, ...], y: tuple[float, ...], sheet: Sheet) -> tuple[Tensor, ...]:
    """Mesh grid of `x` and `y`, [rows, columns] each, on the sheet's device."""
    return torch.meshgrid(*(torch.tensor(part, device=sheet.values.device) for part in (x, y)), indexing="xy")
