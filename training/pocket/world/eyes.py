"""Eyes with gaze, blinks and varying opening, and brows."""

import torch
from torch import Tensor

from training.pocket.world import palette, shapes
from training.pocket.world.attributes import Attributes
from training.pocket.world.build import shaded
from training.pocket.world.canvas import Canvas, coverage
from training.pocket.world.rig import Field
from training.pocket.world.sheet import Sheet, pick

HALF_WIDTH = 0.122
FULLNESS = 0.75
# Radius of the iris, and its height above the middle of the eye, where the upper lid covers its edge.
IRIS, IRIS_LIFT = 0.080, 0.012
# Shift of the iris at full gaze.
GAZE_X, GAZE_Y = 0.048, 0.034

_SHAPES = (
    dict(up=0.104, down=0.084, width=1.0, tilt=0.0),
    dict(up=0.086, down=0.066, width=1.12, tilt=-0.10),
    dict(up=0.094, down=0.076, width=1.06, tilt=0.13),
)
_BROWS = (
    dict(arch=0.040, tilt=0.05, thick=0.019, width=0.124),
    dict(arch=0.008, tilt=0.02, thick=0.019, width=0.126),
    dict(arch=0.022, tilt=0.05, thick=0.028, width=0.134),
    dict(arch=0.034, tilt=0.10, thick=0.012, width=0.120),
)
_WHITE: palette.Rgb = (254, 253, 251)


def eye_parameters(attributes: Attributes) -> dict[str, Tensor]:
    """Drawing parameters of eyes and brows, by name, [N] or [N, 3] each."""
    iris = shaded(palette.EYES, attributes["eye_colour"], torch.zeros(len(attributes)))
    return {
        **pick(_SHAPES, attributes["eye_shape"], "lid_"),
        **pick(_BROWS, attributes["brows"], "brow_"),
        "eye_size": 1 + 0.07 * attributes["eye_size"],
        "brow_lift": 0.014 * attributes["brow_height"],
        "eye_white": palette.plain(_WHITE, len(attributes)),
        "iris": iris,
        "iris_dark": iris * 0.52,
        "iris_light": palette.mix(iris, (255, 255, 240), 0.35),
    }


def lids(sheet: Sheet) -> dict[str, Tensor]:
    """The opening of the eye per frame, [M, 1, 1] each: half width, extent upwards and downwards, tilt."""
    size = sheet["eye_size"] * sheet["person_eyes"]
    blink, brow, smile = sheet["blink"], sheet["brow"], sheet["smile"]
    down = sheet["lid_down"] * size * (1 - 0.22 * smile.clamp(0, 1)) * (1 - 0.25 * blink)
    full = sheet["lid_up"] * size * (1 + 0.18 * brow.clamp(-1, 1)) - 0.012 * sheet["gaze_y"]
    # A closed upper lid meets the lower one, below the middle of the eye.
    return {
        "half": HALF_WIDTH * sheet["lid_width"] * size,
        "up": full * (1 - blink) - down * blink * 0.93,
        "down": down,
        "tilt": sheet["lid_tilt"],
    }


def draw_eyes(canvas: Canvas, sheet: Sheet, face: Field) -> None:
    """Draw both eyes in one pass: coordinates are mirrored about the nose, the gaze is not."""
    side = torch.where(face.x < 0, -1.0, 1.0)
    lid = lids(sheet)
    half, up, down = lid["half"], lid["up"], lid["down"]
    x = side * face.x - sheet["eye_x"]
    y = face.y - sheet["eye_y"] - lid["tilt"] * x
    height, slope = shapes.bump(x, half, FULLNESS)
    above, below = -up * height - y, y - down * height
    steep = torch.sqrt(1 + (torch.maximum(up.abs(), down) * slope) ** 2)
    white = torch.maximum(torch.maximum(above, below) / steep, x.abs() - half)
    cover = coverage(white, face.pixel)
    dark = sheet.colour("skin_dark")
    crease = torch.maximum((above - 0.034 + 0.016 * sheet["blink"]).abs() / steep - 0.006, x.abs() - half * 0.86)
    canvas.paint(dark * 0.9, coverage(crease, face.pixel * 1.3), 0.75)
    canvas.paint(sheet.colour("eye_white"), cover)

    size = sheet["eye_size"] * sheet["person_eyes"]
    iris_x, iris_y = side * x - GAZE_X * sheet["gaze_x"], y + IRIS_LIFT - GAZE_Y * sheet["gaze_y"]
    middle = torch.sqrt(iris_x * iris_x + iris_y * iris_y)
    canvas.paint(sheet.colour("iris_dark"), cover * coverage(middle - IRIS * size, face.pixel))
    canvas.paint(sheet.colour("iris"), cover * coverage(middle - 0.067 * size, face.pixel))
    glow = shapes.ellipse(iris_x, iris_y - 0.034 * size, 0.044 * size, 0.026 * size)
    canvas.paint(sheet.colour("iris_light"), cover * coverage(glow, 0.02), 0.8)
    canvas.paint(sheet.colour("iris_dark") * 0.28, cover * coverage(middle - 0.036 * size, face.pixel))
    # Shadow of the upper lid on the eyeball.
    canvas.paint(dark * 0.55, cover * coverage(-(above + 0.010) / steep, 0.05), 0.38)
    shine = torch.minimum(
        shapes.circle(iris_x + 0.027 * size, iris_y + 0.030 * size, 0.021 * size),
        shapes.circle(iris_x - 0.028 * size, iris_y - 0.026 * size, 0.011 * size),
    )
    canvas.paint(torch.ones_like(sheet.colour("iris")), cover * coverage(shine, face.pixel))

    thick = (0.0125 + 0.005 * sheet["person_lash"]) * (0.55 + 0.45 * height)
    line = torch.maximum(above.abs() / steep - thick, x.abs() - half * 1.01)
    corner = (half * 0.86, -0.16 * up - 0.004)
    wing = shapes.segment(x, y, corner, (half * 1.17, -0.016 - 0.22 * up), 0.009)
    line = torch.where(sheet["person_lash"] > 0.5, torch.minimum(line, wing), line)
    canvas.paint(sheet.colour("brow_colour") * 0.42, coverage(line, face.pixel))


def draw_brows(canvas: Canvas, sheet: Sheet, face: Field) -> None:
    """Draw both brows; the pose's `brow` raises them."""
    half = sheet["brow_width"]
    x = face.x.abs() - sheet["eye_x"] * 1.02
    t = (x / half).clamp(-1, 1)
    y = face.y - brow_middle(sheet, x)
    thick = sheet["brow_thick"] * sheet["person_brow"] * (0.86 - 0.26 * t - 0.22 * t * t)
    stroke = torch.sqrt(y * y + (x.abs() - half).clamp(min=0) ** 2) - thick
    canvas.paint(sheet.colour("brow_colour"), coverage(stroke, face.pixel))


def brow_middle(sheet: Sheet, x: Tensor) -> Tensor:
    """The y of a brow's centre line in the face's frame at `x`, measured outwards from above the eye."""
    rise = sheet["brow_lift"] + 0.075 * sheet["brow"]
    middle = sheet["eye_y"] - 0.172 - 0.25 * (sheet["person_eyes"] - 1) - rise
    t = (x / sheet["brow_width"]).clamp(-1, 1)
    return middle + sheet["brow_arch"] * (t * t - 0.5) + sheet["brow_tilt"] * x
