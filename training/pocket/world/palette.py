"""The named colours of the toy world.

Every name is a plain word that a caption can use and a colour classifier can verify: colours of one list are far apart
(CIEDE2000), so that a picture of an avatar can be checked against its prompt.
"""

import torch
from torch import Tensor

Rgb = tuple[int, int, int]

SKIN: dict[str, Rgb] = {
    "pale": (252, 228, 214),
    "light": (243, 200, 168),
    "tan": (219, 162, 114),
    "olive": (188, 148, 96),
    "brown": (156, 102, 68),
    "dark brown": (112, 70, 48),
    "very dark": (84, 54, 42),
}

HAIR: dict[str, Rgb] = {
    "black": (36, 34, 44),
    "brown": (102, 64, 40),
    "blond": (240, 202, 112),
    "red": (200, 72, 36),
    "grey": (146, 148, 156),
    "white": (240, 238, 234),
    "blue": (58, 104, 206),
    "pink": (244, 126, 176),
    "green": (66, 160, 92),
    "purple": (136, 80, 184),
}

EYES: dict[str, Rgb] = {
    "brown": (116, 68, 36),
    "blue": (58, 134, 214),
    "green": (70, 152, 88),
    "grey": (124, 138, 150),
    "amber": (206, 140, 40),
}

CLOTHES: dict[str, Rgb] = {
    "red": (212, 54, 58),
    "orange": (240, 136, 48),
    "yellow": (248, 208, 72),
    "green": (70, 156, 86),
    "teal": (42, 152, 156),
    "blue": (58, 108, 208),
    "purple": (130, 82, 180),
    "pink": (244, 142, 178),
    "white": (244, 242, 240),
    "grey": (142, 146, 154),
    "black": (48, 48, 58),
    "brown": (130, 86, 56),
}

BACKGROUND: dict[str, Rgb] = {
    "red": (222, 96, 92),
    "orange": (248, 172, 100),
    "yellow": (252, 224, 130),
    "green": (134, 200, 132),
    "teal": (104, 196, 190),
    "blue": (126, 178, 240),
    "purple": (178, 150, 224),
    "pink": (250, 188, 208),
    "white": (246, 245, 242),
    "grey": (182, 186, 194),
    "brown": (172, 130, 98),
    "dark blue": (54, 70, 122),
}

FRAMES: dict[str, Rgb] = {
    "black": (38, 38, 46),
    "brown": (120, 66, 34),
    "red": (204, 46, 56),
    "blue": (44, 96, 200),
    "golden": (214, 164, 52),
}

LIPSTICK: dict[str, Rgb] = {
    "natural": (206, 88, 94),
    "red": (206, 34, 50),
    "pink": (232, 84, 134),
    "dark": (126, 34, 66),
}


def colours(palette: dict[str, Rgb]) -> Tensor:
    """The colours of a palette in order, float32 [K, 3] in 0..1."""
    return torch.tensor(list(palette.values()), dtype=torch.float32) / 255.0


def plain(colour: Rgb, n: int) -> Tensor:
    """One colour repeated for `n` avatars, float32 [n, 3] in 0..1."""
    return (torch.tensor(colour, dtype=torch.float32) / 255.0).expand(n, 3)


def mix(first: Tensor, second: Tensor | Rgb, share: Tensor | float) -> Tensor:
    """Blend `share` (a number or [N, 1]) of `second` ([N, 3] or an 8-bit triple) into `first` [N, 3]."""
    if isinstance(second, tuple):
        second = torch.tensor(second, dtype=torch.float32) / 255.0
    return first + (second - first) * share


def darker(colour: Tensor, factor: float) -> Tensor:
    """A shade of `colour` [N, 3]: darker and a little warmer, as flat illustration draws shadows."""
    return colour * torch.tensor([factor, factor * 0.965, factor * 0.975])
