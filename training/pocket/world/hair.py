"""Hair: one parametric outline for all styles, drawn behind the neck and in front of the face, with tails and a bun.

A style is a row of parameters. The outline is a dome over the skull that runs down to a hem; its edge may be lobed
(curls) or pointed (spikes). Behind the neck the whole outline is painted; in front, an opening for the face is cut out:
an arch for the cheeks under a fringe line. The arch turns with the face, so the hair keeps its volume in a turn.
"""

import torch
from torch import Tensor

from training.pocket.world import shapes
from training.pocket.world.attributes import CHOICES, Attributes
from training.pocket.world.canvas import Canvas, coverage
from training.pocket.world.rig import Field, Rig
from training.pocket.world.sheet import Sheet, pick, table

_OUTLINES = table(
    "half top back front flare round window parted start hairline",
    (0.300, 0.300, 0.00, 0.00, 0.00, 0.10, 0.600, 1.60, -0.16, 0.00),  # bald
    (0.452, 0.575, 0.02, 0.01, 0.00, 0.10, 0.405, 1.60, -0.16, 0.03),  # cropped
    (0.485, 0.650, 0.16, 0.06, 0.00, 0.10, 0.385, 1.60, -0.16, 0.00),  # short
    (0.475, 0.665, 0.14, 0.03, 0.00, 0.10, 0.385, 1.60, -0.16, 0.00),  # spiky
    (0.525, 0.680, 0.20, 0.10, 0.00, 0.10, 0.375, 1.60, -0.16, 0.00),  # curly
    (0.640, 0.760, 0.30, 0.22, -0.18, 0.30, 0.385, 0.30, 0.00, 0.02),  # afro
    (0.530, 0.660, 0.46, 0.46, 0.10, 0.15, 0.352, 0.30, 0.20, 0.00),  # bob
    (0.505, 0.650, 1.05, 0.96, 0.06, 0.10, 0.350, 0.22, 0.20, 0.00),  # long straight
    (0.530, 0.670, 1.00, 0.90, 0.10, 0.16, 0.348, 0.22, 0.20, 0.00),  # long wavy
    (0.468, 0.610, 0.10, 0.04, 0.00, 0.10, 0.388, 1.60, -0.16, 0.00),  # bun
    (0.470, 0.615, 0.10, 0.04, 0.00, 0.10, 0.388, 1.60, -0.16, 0.00),  # ponytail
    (0.472, 0.620, 0.14, 0.06, 0.00, 0.10, 0.380, 1.60, -0.16, 0.00),  # pigtails
)
# Edge and tail by style; a style that is not listed has a smooth edge, or no tail.
_EDGES = {
    "short": dict(quiff=0.058),
    "spiky": dict(lobes=9.0, deep=0.115, spiky=1.0),
    "curly": dict(lobes=5.5, deep=0.034),
    "afro": dict(lobes=11.0, deep=0.018),
    "long wavy": dict(wave=0.030),
}
_SMOOTH = dict(lobes=0.0, deep=0.0, spiky=0.0, wave=0.0, quiff=0.0)
_TAILS = {
    "bun": dict(tail_y=-0.665, tail_w=0.178, tail_h=0.150),
    "ponytail": dict(tail_x=0.52, tail_y=0.12, tail_w=0.155, tail_h=0.47, tail_lean=0.30),
    "pigtails": dict(tail_x=0.60, tail_y=0.34, tail_w=0.130, tail_h=0.34, tail_lean=0.10),
}
_NO_TAIL = dict(tail_x=0.0, tail_y=0.0, tail_w=0.01, tail_h=0.01, tail_lean=0.0)
_STYLES = tuple(
    {**outline, **_SMOOTH, **_EDGES.get(style, {}), **_NO_TAIL, **_TAILS.get(style, {})}
    for style, outline in zip(CHOICES["hair"], _OUTLINES, strict=True)
)
# The fringe line is y = start + rise * |x - part| ^ 1.5; `teeth` adds notches.
_FRINGES = (
    dict(part=0.0, start=-0.345, rise=0.10, teeth=0.0),
    dict(part=0.0, start=-0.215, rise=0.02, teeth=0.016),
    dict(part=0.155, start=-0.395, rise=0.62, teeth=0.0),
    dict(part=0.0, start=-0.415, rise=1.05, teeth=0.0),
)


def hair_parameters(attributes: Attributes) -> dict[str, Tensor]:
    """Drawing parameters of the hair, by name, [N] or [N, 3] each."""
    style = pick(_STYLES, attributes["hair"], "hair_")
    fringe = pick(_FRINGES, attributes["fringe"], "fringe_")
    volume = 1 + 0.03 * attributes["hair_volume"]
    longer = 0.06 * attributes["hair_length"]
    names = CHOICES["hair"]
    bare = (attributes["hair"] == names.index("bald")) | (attributes["hair"] == names.index("cropped"))
    straight = dict(zip(fringe, (0.0, -0.345, 0.10, 0.0), strict=True))
    fringe = {name: torch.where(bare, straight[name], value) for name, value in fringe.items()}
    fringe["fringe_start"] = fringe["fringe_start"] + style.pop("hair_hairline")
    pigtails = attributes["hair"] == names.index("pigtails")
    # A beanie flattens the hair.
    pressed = attributes["hat"] == CHOICES["hat"].index("beanie")
    style["hair_half"] = torch.where(pressed, style["hair_half"].clamp(max=0.53), style["hair_half"])
    style["hair_top"] = torch.where(pressed, style["hair_top"].clamp(max=0.60), style["hair_top"])
    style["hair_deep"] = torch.where(pressed, style["hair_deep"].clamp(max=0.02), style["hair_deep"])
    style["hair_quiff"] = torch.where(pressed, 0.0, style["hair_quiff"])
    bun = attributes["hair"] == names.index("bun")
    return {
        **style,
        **fringe,
        "hair_half": style["hair_half"] * volume,
        "hair_top": style["hair_top"] * volume,
        "hair_back": style["hair_back"] + longer * (style["hair_back"] > 0.3),
        "hair_front": style["hair_front"] + longer * (style["hair_front"] > 0.3),
        "hair_shown": (attributes["hair"] > 0).float(),
        "tail_twice": pigtails.float(),
        "tail_shown": ((style["hair_tail_w"] > 0.05) & ~(bun & pressed)).float(),
        "shine": torch.where(bare, 0.0, 1.0),
        "combed": (~bare & (style["hair_deep"] == 0)).float(),
    }


def draw_hair_back(canvas: Canvas, sheet: Sheet, rig: Rig, head: Field) -> None:
    """Draw the hair behind neck and shoulders: its back, tails, a bun."""
    x = head.x + 0.06 * rig.sin_yaw
    tail_x = torch.where(sheet["tail_twice"] > 0.5, x.abs(), x)
    u, v = tail_x - sheet["hair_tail_x"], head.y - sheet["hair_tail_y"]
    u = u - sheet["hair_tail_lean"] * v + 0.35 * sheet["hair_tail_lean"] * v.abs()
    strand = 0.012 * torch.sin(v * 17.0) * (sheet["hair_tail_h"] > 0.25)
    tail = shapes.ellipse(u + strand, v, sheet["hair_tail_w"], sheet["hair_tail_h"])
    shown = sheet["tail_shown"]
    canvas.paint(sheet.colour("hair"), coverage(tail, head.pixel), shown)
    streak = shapes.ellipse(
        u + 0.25 * sheet["hair_tail_w"],
        v + 0.2 * sheet["hair_tail_h"],
        0.22 * sheet["hair_tail_w"],
        0.62 * sheet["hair_tail_h"],
    )
    canvas.paint(sheet.colour("hair_light"), coverage(streak, 0.05), 0.6 * shown)
    canvas.paint(
        sheet.colour("hair_dark"),
        coverage(_outline(sheet, x, head.y, sheet["hair_back"]), head.pixel),
        sheet["hair_shown"],
    )


def draw_fringe_shadow(canvas: Canvas, sheet: Sheet, cover: Tensor, hair: Field) -> None:
    """Draw the hair's shadow on the face; `cover` is the face's coverage, `hair` the face's frame at hair depth."""
    lowered = Field(hair.x - 0.012, hair.y - 0.036, hair.pixel)
    shadow = coverage(-_cut_out(sheet, lowered), 0.03)
    canvas.paint(sheet.colour("skin_dark"), cover * shadow, 0.85 * sheet["hair_shown"])


def draw_hair_front(canvas: Canvas, sheet: Sheet, rig: Rig, head: Field, hair: Field) -> None:
    """Draw the hair in front of face and shoulders."""
    x = head.x + 0.02 * rig.sin_yaw
    outline = _outline(sheet, x, head.y, sheet["hair_front"])
    cut = _cut_out(sheet, hair)
    shape = torch.maximum(outline, -cut)
    cover = coverage(shape, head.pixel)
    canvas.paint(sheet.colour("hair"), cover, sheet["hair_shown"])
    rim = coverage((cut - 0.012).abs() - 0.012, 0.03)
    canvas.paint(sheet.colour("hair_dark"), cover * rim, 0.55 * sheet["hair_shown"])
    # Strands run outwards from the parting at the crown.
    across, along = hair.x - sheet["fringe_part"] - 0.02, hair.y + 0.70
    angle = torch.atan2(across, along + 0.02)
    strand = torch.sqrt(across * across + along * along) * torch.sin(angle * 8.0).abs() / 8.0 - 0.0035
    canvas.paint(sheet.colour("hair_dark"), cover * coverage(strand, head.pixel * 1.2), 0.42 * sheet["combed"])
    arc = shapes.ellipse(hair.x + 0.03, hair.y + 0.07, 0.37, 0.44).abs() - 0.022
    ends = coverage(hair.x - 0.02, 0.30) * coverage(hair.y + 0.28, 0.16)
    canvas.paint(sheet.colour("hair_light"), cover * ends * coverage(arc, 0.03), 0.95 * sheet["shine"])


def _outline(sheet: Sheet, x: Tensor, y: Tensor, hem: Tensor) -> Tensor:
    """Signed distance to the outline of the hair down to `hem`, including lobes and spikes."""
    half, top, middle = sheet["hair_half"], sheet["hair_top"], -0.08
    wave = sheet["hair_wave"] * torch.sin(y * 11.0 - 0.6) * (y + 0.25).clamp(0, 1)
    x = x + torch.where(x < 0, -wave, wave)
    v = y - middle
    depth = hem - middle
    dome = shapes.ellipse(x, v, half, top + middle)
    round_ = torch.minimum(sheet["hair_round"] + 0.02, depth)
    width = half * (1 + sheet["hair_flare"] * (v / depth).clamp(0, 1))
    side, under = x.abs() - width + round_, v - depth + round_
    fall = (
        torch.sqrt(side.clamp(min=0) ** 2 + under.clamp(min=0) ** 2) + torch.maximum(side, under).clamp(max=0) - round_
    )
    # Arc length along the edge from the crown, in radians: around the dome, then down the sides.
    way = torch.where(v < 0, torch.atan2(x.abs() / half, (-v / (top + middle)).clamp(min=1e-4)), 1.5708 + v / half)
    phase = sheet["hair_lobes"] * way
    lobe = torch.cos(phase).abs()
    saw = 1 - (phase / torch.pi - torch.round(phase / torch.pi)).abs() * 2
    spikes = saw * (1.75 - way).clamp(0, 1)
    edge = sheet["hair_deep"] * torch.where(sheet["hair_spiky"] > 0.5, spikes, lobe)
    quiff = sheet["hair_quiff"] / (1 + ((x + 0.15) / 0.22) ** 2) ** 2
    return torch.where(v < 0, dome - quiff, fall) - edge


def _cut_out(sheet: Sheet, hair: Field) -> Tensor:
    """Signed distance to the opening for the face: under the fringe, between the side locks."""
    # Below `hair_start` the opening widens: sideburns end in points, long locks part onto the shoulders.
    parted = sheet["hair_window"] + sheet["hair_parted"] * (hair.y - sheet["hair_start"]).clamp(min=0) ** 1.5
    arch = shapes.arch(hair.x, hair.y, parted, -0.46, 0.06)
    reach = (hair.x - sheet["fringe_part"]).abs()
    root = torch.sqrt(reach + 1e-6)
    teeth = sheet["fringe_teeth"] * torch.cos(hair.x * 42.0).abs()
    line = sheet["fringe_start"] + sheet["fringe_rise"] * reach * root - teeth
    steep = torch.sqrt(1 + (1.5 * sheet["fringe_rise"] * root) ** 2)
    return torch.maximum(arch, (line - hair.y) / steep)
