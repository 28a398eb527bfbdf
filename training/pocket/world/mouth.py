"""The mouth: lips around an opening with teeth and tongue, drawn large, since speech is judged by it."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from training.pocket.world import palette, shapes
from training.pocket.world.attributes import Attributes
from training.pocket.world.canvas import Canvas, coverage
from training.pocket.world.rig import Field
from training.pocket.world.sheet import Sheet

_INSIDE: palette.Rgb = (76, 15, 23)
_TEETH: palette.Rgb = (251, 249, 242)
_TONGUE: palette.Rgb = (227, 94, 102)
# Distance of the inner lip edges from the lip line at full opening, upper and lower.
UP, DOWN = 0.070, 0.172


def mouth_parameters(attributes: Attributes) -> dict[str, Tensor]:
    """Drawing parameters of the mouth, by name, [N] or [N, 3] each."""
    n = len(attributes)
    return {
        "inside": palette.plain(_INSIDE, n),
        "teeth_white": palette.plain(_TEETH, n),
        "tongue_red": palette.plain(_TONGUE, n),
        "mouth_half": 0.172 * (1 + 0.07 * attributes["mouth_width"]),
        "lip_thickness": 1 + 0.2 * attributes["lip_thickness"],
    }


@dataclass(frozen=True)
class Lips:
    """Lip geometry per frame, [M, 1, 1] each, in the face's frame around the middle of the mouth.

    `half`, `up`, `down` are the inner opening (half width, extent above and below), `half_outer`, `up_outer` and
    `down_outer` the outer edge, `lift` the rise of the corners, `fullness` the breadth of the curves, `bow` the depth
    of the dip in the upper lip.
    """

    half: Tensor
    up: Tensor
    down: Tensor
    half_outer: Tensor
    up_outer: Tensor
    down_outer: Tensor
    lift: Tensor
    fullness: Tensor
    bow: Tensor

    # Half height of the gap of closed lips, width of the dark outline, half width of the dip in the upper lip.
    CLOSED: ClassVar[float] = 0.0045
    LINE: ClassVar[float] = 0.005
    BOW: ClassVar[float] = 0.045

    @classmethod
    def of(cls, sheet: Sheet) -> "Lips":
        """The lips of each frame, from the pose's mouth tracks and the face's proportions."""
        open_, round_, wide = sheet["open"], sheet["round"], sheet["wide"]
        smile, press, tuck = sheet["smile"], sheet["press"], sheet["tuck"]
        half = sheet["mouth_half"] * (1 + 0.2 * wide - 0.46 * round_ + 0.13 * smile - 0.06 * press)
        thick = sheet["lip_thickness"] * sheet["person_lips"] * (1 - 0.42 * press) * (1 + 0.22 * round_ - 0.1 * wide)
        up = cls.CLOSED + UP * open_ * (1 + 0.25 * round_) + 0.026 * tuck
        down = cls.CLOSED + DOWN * open_ * (1 - 0.06 * round_) * (1 - 0.8 * tuck) + 0.010 * tuck
        return cls(
            half=half,
            up=up,
            down=down,
            half_outer=half + 0.014 + 0.018 * round_ + 0.006 * open_,
            up_outer=up + 0.034 * thick + 0.003,
            down_outer=down + 0.048 * thick * (1 - 0.5 * tuck) + 0.003,
            lift=0.022 + 0.066 * smile - 0.012 * round_ - 0.01 * open_,
            fullness=0.60 + 0.35 * torch.maximum(round_, 0.7 * open_),
            bow=0.011 * thick * (1 - 0.5 * round_),
        )


def mouth_frame(sheet: Sheet, lips: Lips, face: Field) -> tuple[Tensor, Tensor]:
    """Coordinates around the mouth in which the lip line is straight."""
    x = face.x
    return x, face.y - sheet["mouth_y"] + corner_lift(x, lips)


def corner_lift(x: Tensor, lips: Lips) -> Tensor:
    """Rise of the lip line at `x` (a field [M, H, W] or points [M, K, 1])."""
    t = x / lips.half_outer
    return lips.lift * ((t * t).clamp(max=1.3) - 0.35)


def lip_outline(lips: Lips, x: Tensor, y: Tensor) -> Tensor:
    """Signed distance to the outer edge of the lips, closed or open, in the mouth's frame."""
    dip = lips.bow / (1 + (x / Lips.BOW) ** 2)
    return shapes.lens(
        x, torch.where(y < 0, y - dip, y), lips.half_outer, lips.up_outer, lips.down_outer, lips.fullness
    )


def draw_lip_shadow(canvas: Canvas, sheet: Sheet, cover: Tensor, face: Field) -> None:
    """Draw the shadow under the lower lip; `cover` is the face's coverage."""
    lips = Lips.of(sheet)
    x, y = mouth_frame(sheet, lips, face)
    below = shapes.ellipse(x, y - lips.down_outer - 0.022, 0.075, 0.02)
    canvas.paint(sheet.colour("skin_dark"), cover * coverage(below, 0.035), 0.75)


def draw_mouth(canvas: Canvas, sheet: Sheet, face: Field) -> None:
    """Draw the lips, and teeth and tongue between them."""
    lips = Lips.of(sheet)
    x, y = mouth_frame(sheet, lips, face)
    outer = lip_outline(lips, x, y)
    inner = shapes.lens(x, y, lips.half, lips.up, lips.down, lips.fullness)
    pixel = face.pixel

    canvas.paint(sheet.colour("lips_dark"), coverage(outer - Lips.LINE, pixel), 0.9)
    lip = coverage(outer + 0.002, pixel)
    canvas.paint(sheet.colour("lips"), lip)
    light = shapes.ellipse(x + 0.02, y - 0.5 * (lips.down + lips.down_outer), 0.34 * lips.half, 0.010)
    canvas.paint(sheet.colour("lips_light"), coverage(light, 0.016), 0.7 * (1 - sheet["press"]))

    cover = coverage(inner, pixel)
    canvas.paint(sheet.colour("lips_dark") * 0.8, lip * coverage(inner - 0.004, pixel))
    canvas.paint(sheet.colour("inside"), cover)
    tongue_y = lips.down * (0.98 - 0.75 * sheet["tongue"]) - 0.02 * sheet["tongue"]
    tongue = shapes.ellipse(x, y - tongue_y, 0.66 * lips.half, 0.012 + 0.52 * lips.down)
    canvas.paint(sheet.colour("tongue_red"), cover * coverage(tongue, pixel), (8 * sheet["open"]).clamp(0, 1))
    # Upper teeth follow the upper lip, lower teeth the lower lip; their edges are nearly straight.
    inside = coverage(x.abs() - 0.86 * lips.half, pixel)
    upper = y + lips.up * 0.96 - 0.062 * sheet["teeth"]
    lower = lips.down * 0.96 - 0.045 * sheet["low_teeth"] - y
    tooth = sheet.colour("teeth_white")
    canvas.paint(tooth * 0.93, cover * inside * coverage(lower, pixel), (sheet["low_teeth"] * 6).clamp(0, 1))
    canvas.paint(tooth, cover * inside * coverage(upper, pixel), (sheet["teeth"] * 6).clamp(0, 1))
