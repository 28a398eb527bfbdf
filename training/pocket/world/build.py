"""From attributes to body measures and colours: the parameters that several drawing modules share."""

import torch
from torch import Tensor

from training.pocket.world import palette
from training.pocket.world.attributes import Attributes
from training.pocket.world.sheet import pick, table

# One row per person: factors on sizes, positions and strengths.
_PERSONS = table(
    "eyes brow jaw lash lips rouge neck shoulders nose drop age head",
    (1.00, 0.80, 0.05, 1.00, 1.00, 0.80, 0.135, 0.70, 0.90, 0.00, 0.0, 1.00),  # woman
    (0.90, 1.10, -0.04, 0.00, 0.84, 0.62, 0.185, 0.84, 1.15, -0.01, 0.0, 1.00),  # man
    (1.16, 0.72, 0.02, 0.75, 0.88, 0.70, 0.115, 0.56, 0.75, 0.05, 0.0, 0.97),  # girl
    (1.12, 0.90, 0.00, 0.00, 0.82, 0.62, 0.120, 0.58, 0.80, 0.05, 0.0, 0.97),  # boy
    (0.90, 0.72, 0.03, 0.60, 0.86, 0.72, 0.140, 0.68, 1.00, 0.00, 1.0, 0.99),  # old woman
    (0.82, 1.15, -0.03, 0.00, 0.86, 0.60, 0.175, 0.80, 1.25, -0.01, 1.0, 1.00),  # old man
)
_FACES = (
    dict(width=0.425, bottom=0.525, square=0.1, taper=0.20),
    dict(width=0.460, bottom=0.475, square=0.1, taper=0.10),
    dict(width=0.400, bottom=0.580, square=0.15, taper=0.17),
    dict(width=0.430, bottom=0.515, square=0.70, taper=0.12),
    dict(width=0.445, bottom=0.540, square=0.0, taper=0.34),
)


def build(attributes: Attributes) -> dict[str, Tensor]:
    """Measures [N] and colours [N, 3] of all avatars, by name; lengths in units of the head's frame."""
    person = pick(_PERSONS, attributes["person"], "person_")
    face = pick(_FACES, attributes["face"], "face_")
    young = (attributes["person"] == 2) | (attributes["person"] == 3)
    bottom = face["face_bottom"] * (1 + 0.04 * attributes["face_length"]) * torch.where(young, 0.96, 1.0)
    width = face["face_width"] * (1 + 0.035 * attributes["face_width"])
    eye_y = -0.055 + person["person_drop"] + 0.01 * attributes["brow_height"]
    mouth_y = bottom * 0.50 + 0.5 * person["person_drop"] + 0.012 * attributes["mouth_height"]
    return {
        **person,
        "face_half": width,
        "face_top": torch.full_like(width, 0.53),
        "face_bottom": bottom,
        "face_square": face["face_square"],
        "face_taper": (face["face_taper"] + person["person_jaw"]).clamp(0.02, 0.45),
        "eye_x": width * 0.455 * (1 + 0.05 * attributes["eye_spacing"]),
        "eye_y": eye_y,
        "nose_y": eye_y + 0.56 * (mouth_y - eye_y),
        "mouth_y": mouth_y,
        "figure_scale": 1 + 0.05 * attributes["figure_size"],
        "figure_x": 0.05 * attributes["figure_x"],
        "figure_y": 0.03 * attributes["figure_y"],
        "head_scale": person["person_head"],
        "head_drop": torch.where(young, 0.03, 0.0),
        **_colours(attributes, person["person_rouge"]),
    }


def shaded(palette_: dict[str, palette.Rgb], index: Tensor, amount: Tensor) -> Tensor:
    """The colours of a palette at `index` [N], a little lighter or darker by `amount` (-1..1), [N, 3]."""
    return (palette.colours(palette_)[index] * (1 + 0.035 * amount[:, None])).clamp(0, 1)


def _colours(attributes: Attributes, rouge: Tensor) -> dict[str, Tensor]:
    skin = shaded(palette.SKIN, attributes["skin"], attributes["skin_shade"])
    hair = shaded(palette.HAIR, attributes["hair_colour"], attributes["hair_shade"])
    bright = skin.mean(dim=1, keepdim=True)
    lipstick = palette.colours(palette.LIPSTICK)[attributes["lipstick"]]
    painted = (attributes["lipstick"] > 0)[:, None]
    # Lips are darker than light skin and lighter than dark skin, so that the mouth is visible on every skin.
    natural = palette.mix(skin, lipstick * (0.98 - 0.06 * bright), rouge[:, None])
    lips = torch.where(painted, palette.mix(lipstick, skin, 0.08), natural)
    cold = palette.mix(hair * 0.62, (60, 44, 40), 0.35)
    return {
        "skin": skin,
        "skin_dark": palette.mix(skin * torch.tensor([0.88, 0.79, 0.78]), (150, 60, 50), 0.06),
        "skin_light": palette.mix(skin, (255, 244, 232), 0.28),
        "blush": palette.mix(skin, (238, 88, 92), 0.08 + 0.34 * bright),
        "lips": lips,
        "lips_dark": palette.mix(lips * 0.52, (84, 20, 30), 0.3),
        "lips_light": palette.mix(lips, (255, 236, 232), 0.38),
        "hair": hair,
        "hair_dark": palette.darker(hair, 0.78),
        "hair_light": palette.mix(hair, (255, 250, 244), 0.10 + 0.14 * (1 - hair.mean(dim=1, keepdim=True))),
        "brow_colour": cold,
    }
