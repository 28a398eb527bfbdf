"""The head: ears, the face and its shading, the nose, freckles, wrinkles."""

import torch
from torch import Tensor

from training.pocket.world import shapes
from training.pocket.world.attributes import Attributes
from training.pocket.world.canvas import Canvas, coverage
from training.pocket.world.rig import Field, Rig
from training.pocket.world.sheet import Sheet, pick

# Displacement of the chin at full mouth opening, at a full turn and at a full nod.
JAW_DROP = 0.075
CHIN_SLIDE = 0.075
CHIN_NOD = 0.06

_NOSES = (
    dict(width=0.048, height=0.034, bridge=0.0, lift=0.0),
    dict(width=0.050, height=0.036, bridge=1.0, lift=0.0),
    dict(width=0.074, height=0.038, bridge=0.0, lift=0.0),
    dict(width=0.040, height=0.050, bridge=1.0, lift=0.014),
)
# Freckles on one cheek: x, y from its middle, and radius.
_FRECKLES = (
    (-0.06, -0.01, 0.009),
    (-0.02, 0.02, 0.011),
    (0.025, -0.015, 0.009),
    (0.06, 0.015, 0.010),
    (0.0, -0.04, 0.008),
)


def face_parameters(attributes: Attributes) -> dict[str, Tensor]:
    """Drawing parameters of head and face, by name, [N] or [N, 3] each."""
    return {
        **pick(_NOSES, attributes["nose"], "nose_"),
        "nose_size": 1 + 0.12 * attributes["nose_size"],
        "ear_size": 1 + 0.15 * attributes["ear_size"],
        "freckles": (attributes["freckles"] > 0).float(),
        "rosy": torch.where(attributes["cheeks"] > 0, 0.95, 0.28),
    }


def face_outline(sheet: Sheet, rig: Rig, head: Field) -> Tensor:
    """Signed distance to the outline of the face, in the head's frame."""
    slide = rig.sin_yaw * (0.02 + CHIN_SLIDE * head.y.clamp(min=0))
    return shapes.egg(
        head.x - slide,
        head.y - 0.05 * rig.sin_pitch,
        sheet["face_half"],
        sheet["face_top"],
        sheet["face_bottom"] + JAW_DROP * sheet["open"] + CHIN_NOD * rig.sin_pitch,
        square=sheet["face_square"],
        taper=sheet["face_taper"],
    )


def outline_points(sheet: Sheet, rig: Rig, angle: Tensor) -> tuple[Tensor, Tensor]:
    """The outline of the face at `angle` [K] (radians, clockwise from the top), in the head's frame, [M, K]."""
    bottom = sheet.vector("face_bottom") + JAW_DROP * sheet.vector("open") + CHIN_NOD * rig.sin_pitch[:, :, 0]
    x, y = shapes.egg_outline(
        angle[None, :],
        sheet.vector("face_half"),
        sheet.vector("face_top"),
        bottom,
        square=sheet.vector("face_square"),
        taper=sheet.vector("face_taper"),
    )
    sin_yaw, sin_pitch = rig.sin_yaw[:, :, 0], rig.sin_pitch[:, :, 0]
    y = y + 0.05 * sin_pitch
    return x + sin_yaw * (0.02 + CHIN_SLIDE * y.clamp(min=0)), y


def ear_place(sheet: Sheet, rig: Rig, head: Field) -> tuple[Tensor, Tensor]:
    """Coordinates about the nearer ear: x outwards, y down. The ear on the side turned to slips behind the face."""
    side = torch.sign(head.x)
    away = side * rig.sin_yaw
    return head.x.abs() - sheet["face_half"] * 0.985 + 0.10 * away.clamp(min=0) - 0.02, head.y - sheet["eye_y"] - 0.075


def draw_ears(canvas: Canvas, sheet: Sheet, rig: Rig, head: Field) -> None:
    """Draw both ears; the face is painted over their inner half."""
    x, y = ear_place(sheet, rig, head)
    size = sheet["ear_size"]
    canvas.paint(sheet.colour("skin"), coverage(shapes.ellipse(x, y, 0.072 * size, 0.105 * size), head.pixel))
    canvas.paint(
        sheet.colour("skin_dark"), coverage(shapes.ellipse(x - 0.004, y, 0.04 * size, 0.066 * size), head.pixel), 0.8
    )


def draw_face(canvas: Canvas, sheet: Sheet, rig: Rig, head: Field, face: Field) -> Tensor:
    """Draw the face with shading and cheeks; returns its coverage of each pixel, [M, H, W]."""
    outline = face_outline(sheet, rig, head)
    cover = coverage(outline, head.pixel)
    canvas.paint(sheet.colour("skin"), cover)
    # The light comes from the upper left: a soft shadow along the other side.
    shade = coverage(-face_outline(sheet, rig, Field(head.x + 0.07, head.y + 0.035, head.pixel)), 0.13)
    canvas.paint(sheet.colour("skin_dark"), cover * shade, 0.55)
    cheek_x, cheek_y = face.x.abs() - sheet["eye_x"] * 1.22, face.y - sheet["nose_y"] - 0.045 + 0.02 * sheet["smile"]
    cheek = coverage(shapes.ellipse(cheek_x, cheek_y, 0.095, 0.066), 0.055)
    canvas.paint(sheet.colour("blush"), cover * cheek, sheet["rosy"] + 0.15 * sheet["smile"])
    return cover


def draw_freckles(canvas: Canvas, sheet: Sheet, face: Field) -> None:
    """Draw five freckles on each cheek."""
    if not sheet.shows("freckles"):
        return
    x, y = face.x.abs() - sheet["eye_x"] * 1.0, face.y - sheet["nose_y"] - 0.01
    spots = [shapes.circle(x - dx, y - dy, radius) for dx, dy, radius in _FRECKLES]
    nearest = torch.stack(spots).amin(dim=0)
    canvas.paint(sheet.colour("skin_dark") * 0.86, coverage(nearest, face.pixel), 0.8 * sheet["freckles"])


def draw_wrinkles(canvas: Canvas, sheet: Sheet, face: Field) -> None:
    """Draw an old face's wrinkles: from nose to mouth, and under the eyes."""
    if not sheet.shows("person_age"):
        return
    x = face.x.abs()
    nose_y, mouth_y, eye_x, eye_y = sheet["nose_y"], sheet["mouth_y"], sheet["eye_x"], sheet["eye_y"]
    fold = shapes.segment(x, face.y, (0.10, nose_y + 0.01), (0.185, mouth_y - 0.03), 0.007)
    bag = shapes.ellipse(x - eye_x, face.y - eye_y - 0.06, 0.10, 0.085)
    under = torch.maximum(bag.abs() - 0.006, eye_y + 0.105 - face.y)
    canvas.paint(
        sheet.colour("skin_dark") * 0.92, coverage(torch.minimum(fold, under), face.pixel), 0.75 * sheet["person_age"]
    )


def draw_nose(canvas: Canvas, sheet: Sheet, rig: Rig, face: Field) -> None:
    """Draw the nose: shadow, bridge for some shapes, highlight. It protrudes, so a turn moves it further."""
    tip_x, tip_y = nose_tip(sheet, rig)
    x, y = face.x - tip_x, face.y - tip_y
    size = sheet["nose_size"] * sheet["person_nose"]
    wide, high = sheet["nose_width"] * size, sheet["nose_height"] * size
    tip = shapes.ellipse(x, y, wide, high)
    crescent = torch.maximum(tip, -shapes.ellipse(x + 0.006, y + 0.55 * high, wide * 0.98, high * 0.95))
    canvas.paint(sheet.colour("skin_dark") * 0.9, coverage(crescent, face.pixel), 0.95)
    bridge = shapes.segment(x, y, (0.62 * wide, -0.15), (0.95 * wide, -0.02), 0.007)
    canvas.paint(sheet.colour("skin_dark"), coverage(bridge, face.pixel * 1.5), 0.8 * sheet["nose_bridge"])
    light = shapes.ellipse(x + 0.25 * wide, y + 0.9 * high, 0.017, 0.022)
    canvas.paint(sheet.colour("skin_light"), coverage(light, 0.022), 0.9)


def nose_tip(sheet: Sheet, rig: Rig) -> tuple[Tensor, Tensor]:
    """Position of the tip of the nose in the face's frame, x and y [M, 1, 1] each."""
    return 0.075 * rig.sin_yaw, sheet["nose_y"] + 0.05 * rig.sin_pitch + sheet["nose_lift"]
