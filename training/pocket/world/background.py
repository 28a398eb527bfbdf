"""The background: one clear colour, plain or with a quiet pattern in a similar shade."""

import torch
from torch import Tensor

from training.pocket.world import palette, shapes
from training.pocket.world.attributes import Attributes
from training.pocket.world.build import shaded
from training.pocket.world.canvas import coverage
from training.pocket.world.rig import Field
from training.pocket.world.sheet import Sheet


def background_parameters(attributes: Attributes) -> dict[str, Tensor]:
    """Drawing parameters of the background, by name, [N] or [N, 3] each."""
    colour = shaded(palette.BACKGROUND, attributes["background_colour"], attributes["background_shade"])
    light = colour.mean(dim=1, keepdim=True)
    other = torch.where(light > 0.9, colour * 0.93, palette.mix(colour, (255, 255, 255), 0.22))
    kind = attributes["background"]
    return {
        "background": colour,
        "background_other": other,
        "back_gradient": (kind == 1).float(),
        "back_circle": (kind == 2).float(),
        "back_stripes": (kind == 3).float(),
    }


def draw_background(sheet: Sheet, world: Field) -> Tensor:
    """Draw the background alone, [M, 3, H, W]."""
    gradient = (0.5 - 0.5 * world.y).clamp(0, 1) * 0.9
    circle = coverage(shapes.circle(world.x, world.y + 0.05, 0.86), world.pixel)
    slant = (world.x + world.y) / 0.42
    stripes = coverage(((slant - torch.round(slant)).abs() - 0.25) * 0.297, world.pixel)
    share = sheet["back_gradient"] * gradient + sheet["back_circle"] * circle + sheet["back_stripes"] * stripes * 0.7
    return torch.lerp(sheet.colour("background"), sheet.colour("background_other"), share.unsqueeze(1))
