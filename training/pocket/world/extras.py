"""Accessories: glasses, earrings, hats, headphones; and beards."""

import torch
from torch import Tensor

from training.pocket.world import palette, shapes
from training.pocket.world.attributes import Attributes
from training.pocket.world.build import shaded
from training.pocket.world.canvas import Canvas, coverage
from training.pocket.world.face import ear_place, face_outline
from training.pocket.world.mouth import Lips, lip_outline, mouth_frame
from training.pocket.world.rig import Field, Rig
from training.pocket.world.sheet import Sheet, pick

_GLASSES = (
    dict(half_x=0.10, half_y=0.10, corner=0.05, flick=0.0, thick=0.0, shown=0.0),
    dict(half_x=0.160, half_y=0.160, corner=0.160, flick=0.0, thick=0.015, shown=1.0),
    dict(half_x=0.166, half_y=0.132, corner=0.045, flick=0.0, thick=0.018, shown=1.0),
    dict(half_x=0.164, half_y=0.128, corner=0.085, flick=0.30, thick=0.018, shown=1.0),
)
_EARRINGS = (
    dict(stud=0.0, hoop=0.0, drop=0.0),
    dict(stud=1.0, hoop=0.0, drop=0.0),
    dict(stud=0.0, hoop=1.0, drop=0.0),
    dict(stud=1.0, hoop=0.0, drop=1.0),
)
_BEARDS = (
    dict(cheeks=0.0, chin=0.0, lip=0.0),
    dict(cheeks=0.0, chin=0.0, lip=1.0),
    dict(cheeks=0.0, chin=1.0, lip=1.0),
    dict(cheeks=1.0, chin=0.0, lip=1.0),
)
_GOLD: palette.Rgb = (236, 184, 70)


def extra_parameters(attributes: Attributes) -> dict[str, Tensor]:
    """Drawing parameters of accessories and beards, by name, [N] or [N, 3] each."""
    hat = shaded(palette.CLOTHES, attributes["hat_colour"], torch.zeros(len(attributes)))
    frame = shaded(palette.FRAMES, attributes["glasses_colour"], torch.zeros(len(attributes)))
    kind = attributes["hat"]
    return {
        **pick(_GLASSES, attributes["glasses"], "glasses_"),
        **pick(_EARRINGS, attributes["earrings"], "earring_"),
        **pick(_BEARDS, attributes["beard"], "beard_"),
        "frame": frame,
        "gold": palette.plain(_GOLD, len(attributes)),
        "hat": hat,
        "hat_dark": palette.darker(hat, 0.80),
        "hat_light": palette.mix(hat, (255, 255, 255), 0.22),
        "beanie": (kind == 1).float(),
        "headband": (kind == 2).float(),
        "headphones": (kind == 3).float(),
    }


def draw_beard(canvas: Canvas, sheet: Sheet, rig: Rig, cover: Tensor, head: Field, face: Field) -> None:
    """Full beard, goatee, moustache; the lips stay visible. `cover` is the face's coverage."""
    if not sheet.shows("beard_lip"):
        return
    lips = Lips.of(sheet)
    x, y = mouth_frame(sheet, lips, face)
    free = coverage(-(lip_outline(lips, x, y) - 0.012), face.pixel)
    grown = torch.maximum(
        cover, coverage(face_outline(sheet, rig, Field(head.x, head.y - 0.028, head.pixel)), head.pixel)
    )
    # The upper edge runs from the sideburns down the cheeks and up to the moustache.
    side = face.x.abs()
    cheek = sheet["mouth_y"] - 0.055 - 0.30 * (side - 0.16).clamp(min=0)
    full = coverage(cheek - face.y, face.pixel) * grown
    canvas.paint(sheet.colour("hair_dark"), full * free, 0.95 * sheet["beard_cheeks"])
    chin_y = face.y - sheet["mouth_y"] - lips.down_outer - 0.075
    chin = coverage(shapes.ellipse(face.x, chin_y, 0.115, 0.095), face.pixel) * grown
    canvas.paint(sheet.colour("hair_dark"), chin * free, 0.95 * sheet["beard_chin"])
    bar_y = y + 0.4 * lips.up_outer + 0.047 - 0.10 * (x.abs() - 0.05).clamp(min=0)
    bar = shapes.ellipse(x.abs() - 0.080, bar_y - 0.25 * (x.abs() - 0.08), 0.112, 0.034)
    canvas.paint(sheet.colour("hair_dark") * 0.92, coverage(bar, face.pixel) * free * cover, sheet["beard_lip"])


def draw_earrings(canvas: Canvas, sheet: Sheet, rig: Rig, head: Field) -> None:
    """Earrings, hanging from the lobe of each ear."""
    x, y = ear_place(sheet, rig, head)
    y = y - 0.098 * sheet["ear_size"]
    gold = sheet.colour("gold")
    if sheet.shows("earring_hoop"):
        hoop = shapes.circle(x, y - 0.055, 0.056).abs() - 0.011
        canvas.paint(gold, coverage(hoop, head.pixel), sheet["earring_hoop"])
    if sheet.shows("earring_stud"):
        canvas.paint(gold, coverage(shapes.circle(x, y, 0.021), head.pixel), sheet["earring_stud"])
    if sheet.shows("earring_drop"):
        pearl = shapes.ellipse(x, y - 0.085, 0.026, 0.042)
        drop = torch.minimum(pearl, shapes.segment(x, y, (0.0, 0.0), (0.0, 0.05), 0.006))
        canvas.paint(gold, coverage(drop, head.pixel), sheet["earring_drop"])


def draw_temples(canvas: Canvas, sheet: Sheet, cover: Tensor, face: Field) -> None:
    """The temples of the glasses, from frame to ears, under the hair; `cover` is the face's coverage."""
    if not sheet.shows("glasses_shown"):
        return
    reach = sheet["eye_x"] * 1.02 + sheet["glasses_half_x"]
    temple = torch.maximum((face.y - sheet["eye_y"] + 0.023).abs() - 0.012, reach - 0.01 - face.x.abs())
    canvas.paint(sheet.colour("frame"), cover * coverage(temple, face.pixel), sheet["glasses_shown"])


def draw_glasses(canvas: Canvas, sheet: Sheet, rig: Rig, face: Field) -> None:
    """Frames of glasses; they turn with the face at a small distance from it. The lenses are clear."""
    if not sheet.shows("glasses_shown"):
        return
    shift = 0.035 * rig.sin_yaw
    fold = (face.x - shift).abs()
    x = fold - sheet["eye_x"] * 1.02
    y = face.y - sheet["eye_y"] - 0.012 - 0.03 * rig.sin_pitch + sheet["glasses_flick"] * (x.clamp(min=0) ** 2) * 2.0
    lens = shapes.box(x, y, sheet["glasses_half_x"], sheet["glasses_half_y"], sheet["glasses_corner"])
    white = torch.ones_like(sheet.colour("frame"))
    canvas.paint(white, coverage(lens, face.pixel), 0.07 * sheet["glasses_shown"])
    glare = torch.maximum((x + 0.75 * y + 0.045).abs() - 0.024, lens + 0.03)
    canvas.paint(white, coverage(glare, 0.02), 0.30 * sheet["glasses_shown"])
    ring = lens.abs() - sheet["glasses_thick"]
    gap = sheet["eye_x"] * 1.02 - sheet["glasses_half_x"]
    bridge = torch.maximum((y + 0.03 - 0.5 * (gap * gap - fold * fold) / (gap + 0.05)).abs() - 0.011, fold - gap)
    canvas.paint(sheet.colour("frame"), coverage(torch.minimum(ring, bridge), face.pixel), sheet["glasses_shown"])


def draw_hat(canvas: Canvas, sheet: Sheet, rig: Rig, head: Field, hair: Field) -> None:
    """Beanie, headband or headphones, over the hair."""
    half = torch.maximum(sheet["hair_half"] + 0.6 * sheet["hair_deep"], sheet["face_half"]).clamp(max=0.57) + 0.022
    top = torch.maximum(sheet["hair_top"] + 0.4 * sheet["hair_deep"], sheet["face_top"]).clamp(max=0.74) + 0.030
    x, y, pixel = head.x + 0.02 * rig.sin_yaw, head.y, head.pixel
    dome = shapes.ellipse(x, y + 0.08, half, top - 0.08)
    if sheet.shows("beanie"):
        beanie = sheet["beanie"]
        bend = hair.y - 0.05 * (hair.x / half) ** 2
        ball = shapes.circle(x + 0.05 * rig.sin_yaw, y + top + 0.045, 0.098)
        canvas.paint(sheet.colour("hat_light"), coverage(ball, pixel), beanie)
        crown = torch.maximum(dome, bend + 0.33)
        canvas.paint(sheet.colour("hat"), coverage(crown, pixel), beanie)
        rib = torch.maximum(crown, (torch.sin(hair.x * 34.0) - 0.72) * 0.03)
        canvas.paint(sheet.colour("hat_dark"), coverage(rib, pixel), 0.45 * beanie)
        band = torch.maximum(dome - 0.016, (bend + 0.345).abs() - 0.072)
        canvas.paint(sheet.colour("hat_light"), coverage(band, pixel), beanie)
    if sheet.shows("headband"):
        strip = torch.maximum(dome - 0.008, (hair.y - 0.41 * (hair.x / half) ** 2 + 0.445).abs() - 0.050)
        canvas.paint(sheet.colour("hat"), coverage(strip, pixel), sheet["headband"])
    if sheet.shows("headphones"):
        bow = torch.maximum((dome + 0.005).abs() - 0.036, y + 0.02)
        canvas.paint(sheet.colour("hat_dark"), coverage(bow, pixel), sheet["headphones"])
        cup = shapes.box(x.abs() - half, y - 0.02, 0.075, 0.145, 0.07)
        canvas.paint(sheet.colour("hat"), coverage(cup, pixel), sheet["headphones"])
        glint = shapes.box(x.abs() - half - 0.026, y - 0.02, 0.018, 0.09, 0.018)
        canvas.paint(sheet.colour("hat_light"), coverage(glint, pixel), sheet["headphones"])
