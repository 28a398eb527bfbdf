"""Neck, shoulders and clothes."""

import torch
from torch import Tensor

from training.pocket.world import palette, shapes
from training.pocket.world.attributes import Attributes
from training.pocket.world.build import shaded
from training.pocket.world.canvas import Canvas, coverage
from training.pocket.world.face import face_outline
from training.pocket.world.rig import HEAD_CENTRE, HEAD_SCALE, Field, Rig
from training.pocket.world.sheet import Sheet, pick

# Necklines: an ellipse of `wide` by `deep` around the pit of the neck, or a V (`vee`) down to `deep`.
_NONE = dict(
    wide=0.20, deep=0.10, vee=0.0, rim=0.0, hood=0.0, collar=0.0, lapel=0.0, buttons=0.0, strings=0.0, roll=0.0, tie=0.0
)
_KINDS = (
    dict(_NONE, wide=0.235, deep=0.115, rim=0.034),
    dict(_NONE, wide=0.25, deep=0.34, vee=1.0, rim=0.034),
    dict(_NONE, wide=0.20, deep=0.20, vee=1.0, collar=1.0, buttons=1.0),
    dict(_NONE, wide=0.235, deep=0.125, rim=0.020, hood=1.0, strings=1.0),
    dict(_NONE, wide=0.05, deep=0.01, roll=1.0),
    dict(_NONE, wide=0.40, deep=0.20, rim=0.018),
    dict(_NONE, wide=0.20, deep=0.12, vee=1.0, collar=1.0, lapel=1.0, tie=1.0),
)  # fmt: skip
_TIES: tuple[palette.Rgb, ...] = tuple((200, 48, 56) if name != "red" else (50, 70, 140) for name in palette.CLOTHES)


def body_parameters(attributes: Attributes) -> dict[str, Tensor]:
    """Drawing parameters of neck, shoulders and clothes, by name, [N] or [N, 3] each."""
    cloth = shaded(palette.CLOTHES, attributes["clothes_colour"], attributes["clothes_shade"])
    kind = pick(_KINDS, attributes["clothes"], "cut_")
    light = cloth.mean(dim=1, keepdim=True)
    suit = (kind["cut_lapel"] > 0.5)[:, None]
    shirt = palette.plain((250, 250, 252), len(attributes))
    pattern = attributes["pattern"]
    return {
        **kind,
        "cloth": cloth,
        "cloth_dark": palette.darker(cloth, 0.80),
        "cloth_light": palette.mix(cloth, (255, 255, 255), 0.16 + 0.14 * light),
        # A pattern is darker on light cloth and lighter on dark cloth, so that it shows on both.
        "cloth_pattern": torch.where(light > 0.72, cloth * 0.80, palette.mix(cloth, (255, 255, 255), 0.34)),
        "collar_colour": torch.where(suit, shirt, palette.mix(cloth, (255, 255, 255), 0.26)),
        "collar_edge": torch.where(suit, shirt * 0.82, cloth * 0.78),
        "tie": (torch.tensor(_TIES) / 255.0)[attributes["clothes_colour"]],
        "stripes": ((pattern == 1) & ~suit[:, 0]).float(),
        "dots": ((pattern == 2) & ~suit[:, 0]).float(),
    }


def torso_outline(sheet: Sheet, body: Field) -> Tensor:
    """Signed distance to the shoulders and torso."""
    half = sheet["person_shoulders"]
    return shapes.egg(body.x, (body.y - 1.22).clamp(max=0), half, 0.62 + 0.02 * (half - 0.7), 1.0, square_top=0.72)


def draw_torso(canvas: Canvas, sheet: Sheet, body: Field) -> None:
    """Shoulders and clothes, up to the neckline."""
    outline = torso_outline(sheet, body)
    cover = coverage(outline, body.pixel)
    x, y, pixel = body.x, body.y, body.pixel
    canvas.paint(sheet.colour("cloth"), cover)
    stripes = 0.036 - ((y / 0.145 - torch.round(y / 0.145)) * 0.145).abs()
    canvas.paint(sheet.colour("cloth_pattern"), cover * coverage(-stripes, pixel), sheet["stripes"])
    row = torch.round(y / 0.13)
    column = x / 0.15 + 0.5 * (row - 2 * torch.floor(row / 2))
    dots = shapes.circle((column - torch.round(column)) * 0.15, y - row * 0.13, 0.030)
    canvas.paint(sheet.colour("cloth_pattern"), cover * coverage(dots, pixel), sheet["dots"])
    # Shade the side away from the light, then draw the line between arm and body.
    canvas.paint(
        sheet.colour("cloth_dark"), cover * coverage(-torso_outline(sheet, Field(x + 0.08, y + 0.02, pixel)), 0.10), 0.6
    )
    arm = sheet["person_shoulders"] * 0.73
    seam = shapes.segment(x.abs(), y, (arm * 1.04, 1.07), (arm, 2.6), 0.011)
    canvas.paint(sheet.colour("cloth_dark"), cover * coverage(seam, pixel), 0.9)
    hood = shapes.ellipse(x, y - 0.605, 0.36, 0.155)
    canvas.paint(sheet.colour("cloth_light"), coverage(hood, pixel), sheet["cut_hood"])
    canvas.paint(
        sheet.colour("cloth_dark"), coverage(shapes.ellipse(x, y - 0.60, 0.285, 0.115), pixel), sheet["cut_hood"]
    )


def draw_neck(canvas: Canvas, sheet: Sheet, rig: Rig, body: Field, head: Field) -> None:
    """Neckline, neck and the chin's shadow."""
    skin = coverage(torso_outline(sheet, body) + 0.004, body.pixel)
    line = _neckline(sheet, body)
    canvas.paint(sheet.colour("cloth_dark"), skin * coverage(line - sheet["cut_rim"], body.pixel), 0.85)
    canvas.paint(sheet.colour("skin"), skin * coverage(line, body.pixel), 1 - sheet["cut_roll"])
    # The neck runs from the pit between the collar bones up to the head, and follows its motion.
    top_x = rig.head_x + 0.10 * rig.sin_roll
    top_y = rig.head_y + HEAD_CENTRE + 0.25 * HEAD_SCALE
    neck = shapes.segment(body.x, body.y, (0.0, 0.60 - 0.17 * sheet["cut_roll"]), (top_x, top_y), sheet["person_neck"])
    cover = coverage(neck, body.pixel)
    canvas.paint(sheet.colour("skin"), cover)
    chin = face_outline(sheet, rig, Field(head.x - 0.012, head.y - 0.085, head.pixel))
    canvas.paint(
        sheet.colour("skin_dark"), torch.maximum(cover, skin * coverage(line, body.pixel)) * coverage(chin, 0.03)
    )


def draw_collar(canvas: Canvas, sheet: Sheet, rig: Rig, body: Field) -> None:
    """Parts over the neck: collar and lapels, tie, buttons, the hoodie's strings, the turtleneck's roll."""
    x, y, pixel = body.x, body.y, body.pixel
    fold = x.abs()
    dark = sheet.colour("cloth_dark")
    tie = torch.maximum(
        torch.minimum(
            shapes.box(x, y - 0.775, 0.052 - 0.3 * (y - 0.775), 0.048, 0.016),
            fold - 0.028 - 0.075 * (y - 0.8).clamp(min=0),
        ),
        0.735 - y,
    )
    bib = torch.maximum(0.85 * (fold - 0.02) - 0.30 * (1.26 - y), 0.66 - y)
    canvas.paint(
        sheet.colour("collar_colour"),
        coverage(bib, pixel) * coverage(torso_outline(sheet, body), pixel),
        sheet["cut_lapel"],
    )
    canvas.paint(sheet.colour("tie"), coverage(tie, pixel), sheet["cut_tie"])
    lapel = _flap(fold, y, ((0.17, 0.60), (0.36, 0.74), (0.27, 0.93), (0.03, 1.30)))
    canvas.paint(dark, coverage(lapel - 0.010, pixel), sheet["cut_lapel"])
    canvas.paint(sheet.colour("cloth"), coverage(lapel, pixel), sheet["cut_lapel"])
    flap = _flap(fold, y, ((0.10, 0.56), (0.225, 0.60), (0.205, 0.80), (0.02, 0.755)))
    canvas.paint(sheet.colour("collar_edge"), coverage(flap - 0.010, pixel), sheet["cut_collar"])
    canvas.paint(sheet.colour("collar_colour"), coverage(flap, pixel), sheet["cut_collar"])
    button = shapes.circle(x, (y / 0.17 - torch.round(y / 0.17)) * 0.17, 0.018)
    placket = torch.maximum(torch.minimum(button, fold.sub(0.055).abs() - 0.005), 0.80 - y)
    canvas.paint(dark, coverage(placket, pixel), sheet["cut_buttons"])
    string = torch.minimum(
        shapes.segment(fold, y, (0.105, 0.715), (0.115, 0.90), 0.013),
        shapes.segment(fold, y, (0.115, 0.88), (0.115, 0.92), 0.021),
    )
    canvas.paint(sheet.colour("cloth_light"), coverage(string, pixel), sheet["cut_strings"])
    neck = sheet["person_neck"]
    roll_y = y - 0.58 + 0.03 * (1 - (x / 0.25) ** 2)
    roll = shapes.box(x - 0.35 * rig.head_x, roll_y, neck + 0.042, 0.098, 0.05)
    canvas.paint(sheet.colour("cloth"), coverage(roll, pixel), sheet["cut_roll"])
    crease = torch.maximum(roll, (roll_y - 0.055).abs() - 0.008)
    canvas.paint(dark, coverage(crease, pixel), sheet["cut_roll"])


def _neckline(sheet: Sheet, body: Field) -> Tensor:
    """Signed distance to the skin that the clothes leave bare."""
    y = body.y - 0.60
    wide, deep = sheet["cut_wide"], sheet["cut_deep"]
    round_ = shapes.ellipse(body.x, y, wide, deep)
    vee = (body.x.abs() * deep + (y - deep) * wide) / torch.sqrt(deep * deep + wide * wide)
    return torch.where(sheet["cut_vee"] > 0.5, vee, round_)


def _flap(x: Tensor, y: Tensor, corners: tuple[tuple[float, float], ...]) -> Tensor:
    """Signed distance to a convex polygon, corners given clockwise."""
    sides = []
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
        sides.append(shapes.half_plane(x, y, (x0, y0), (y1 - y0, x0 - x1)))
    return torch.stack(sides).amax(dim=0)
