"""Attributes of an avatar: a few dozen choices and amounts, sampled by seed, with some combinations held out.

A choice is one word of a list (hair: bob), an amount a number in -1..1 around the usual value (eye_size). Both are kept
as tensors, one row per avatar, on the CPU, so that a seed gives the same avatars on every machine.

Whole pairs are held out from the train split: for every hair style one hair colour, and for every kind of clothes one
colour. A model that draws "a purple bob" therefore combines two words that it never saw together in training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from training.pocket.world import palette

Split = Literal["train", "held_out"]

PERSONS = ("woman", "man", "girl", "boy", "old woman", "old man")
CHOICES: dict[str, tuple[str, ...]] = {
    "person": PERSONS,
    "skin": tuple(palette.SKIN),
    "face": ("oval", "round", "long", "square", "heart"),
    "hair": (
        "bald",
        "cropped",
        "short",
        "spiky",
        "curly",
        "afro",
        "bob",
        "long straight",
        "long wavy",
        "bun",
        "ponytail",
        "pigtails",
    ),
    "fringe": ("swept back", "bangs", "side parting", "middle parting"),
    "hair_colour": tuple(palette.HAIR),
    "brows": ("arched", "straight", "thick", "thin"),
    "eye_colour": tuple(palette.EYES),
    "eye_shape": ("round", "almond", "droopy"),
    "nose": ("button", "straight", "wide", "pointed"),
    "glasses": ("none", "round", "square", "cat-eye"),
    "glasses_colour": tuple(palette.FRAMES),
    "clothes": ("t-shirt", "v-neck sweater", "shirt", "hoodie", "turtleneck", "dress", "suit"),
    "clothes_colour": tuple(palette.CLOTHES),
    "pattern": ("plain", "stripes", "dots"),
    "background": ("plain", "gradient", "circle", "stripes"),
    "background_colour": tuple(palette.BACKGROUND),
    "earrings": ("none", "studs", "hoops", "drops"),
    "beard": ("none", "moustache", "goatee", "full beard"),
    "freckles": ("none", "freckles"),
    "cheeks": ("plain", "rosy"),
    "hat": ("none", "beanie", "headband", "headphones"),
    "hat_colour": tuple(palette.CLOTHES),
    "lipstick": tuple(palette.LIPSTICK),
    "expression": ("neutral", "smiling"),
}
AMOUNTS = (
    "eye_size",
    "eye_spacing",
    "mouth_width",
    "mouth_height",
    "nose_size",
    "brow_height",
    "lip_thickness",
    "ear_size",
    "face_width",
    "face_length",
    "hair_volume",
    "hair_length",
    "skin_shade",
    "hair_shade",
    "clothes_shade",
    "background_shade",
    "figure_size",
    "figure_x",
    "figure_y",
)
# Minimum RGB distance (0..1) between touching colours; nearer ones are hard to tell apart.
TOO_NEAR = 0.15

# Sampling weights of each choice's words, by person ("" is the default): plausible people, and rare values often enough
# to be learnt.
_ADULT_FACE = (4.0, 2.0, 2.0, 1.5, 1.5)
_WEIGHTS: dict[str, dict[str, tuple[float, ...]]] = {
    "face": {"girl": (2, 6, 0, 0.5, 1.5), "boy": (2, 6, 0, 1.5, 1), "man": (3, 1, 2, 3, 0.5), "": _ADULT_FACE},
    "hair": {
        "woman": (0.4, 0.6, 1.2, 0.5, 1.5, 1.2, 2.5, 2.5, 2.5, 2, 2, 0.8),
        "man": (2, 2.5, 4, 2, 2, 1.2, 0.3, 0.6, 0.6, 0.5, 0.2, 0),
        "girl": (0, 0.2, 0.8, 0.4, 1.5, 1, 2.5, 2, 2, 1.2, 2, 3),
        "boy": (0.2, 2, 4, 3, 2.5, 1.2, 0.5, 0.2, 0.2, 0, 0, 0),
        "old woman": (0.2, 0.8, 2.5, 0.3, 3, 0.8, 2.5, 1, 1, 3, 0.8, 0),
        "old man": (4, 2.5, 3.5, 0.8, 1.5, 0.5, 0.2, 0.4, 0.3, 0, 0, 0),
    },
    "hair_colour": {
        "old woman": (0.4, 0.4, 0.5, 0.4, 4, 4, 0.5, 0.5, 0.3, 0.6),
        "old man": (0.4, 0.4, 0.3, 0.4, 4, 4, 0.4, 0.2, 0.3, 0.3),
        "": (3, 3, 2.5, 2.5, 0.8, 0.8, 1.4, 1.4, 1.4, 1.4),
    },
    "brows": {"man": (1, 2, 3, 0.3), "old man": (1, 1.5, 3, 0.5), "boy": (1.5, 2, 1.5, 0.6), "": (3, 1.5, 0.8, 2)},
    "nose": {"girl": (5, 1, 0.5, 0.5), "boy": (5, 1, 1, 0.5), "": (2, 2.5, 1.5, 1.5)},
    "glasses": {"girl": (5, 1, 0.6, 0.4), "boy": (5, 1, 1, 0), "man": (5, 1.6, 2, 0), "": (4, 1.6, 1.2, 1)},
    "glasses_colour": {"": (3, 1.5, 1.2, 1.2, 1.2)},
    "clothes": {
        "woman": (2, 2, 1.5, 1.5, 2, 2.5, 1),
        "girl": (3, 1, 1, 2, 1, 4, 0.2),
        "old woman": (1, 2.5, 1.5, 0.8, 2, 2, 0.6),
        "": (2.5, 2, 2, 2, 1.2, 0, 2),
    },
    "pattern": {"": (6, 1.5, 1.2)},
    "background": {"": (4, 2, 2, 1.2)},
    "earrings": {
        "woman": (4, 1.5, 1.2, 1.2),
        "old woman": (4, 2, 0.6, 1.2),
        "girl": (6, 1.5, 0.4, 0.3),
        "": (1, 0, 0, 0),
    },
    "beard": {"man": (4, 1.3, 1.3, 2), "old man": (3, 1.5, 1, 3), "": (1, 0, 0, 0)},
    "freckles": {"": (5, 1)},
    "cheeks": {"girl": (1, 2), "boy": (1, 1), "": (2, 1)},
    "hat": {"": (9, 1.1, 0.8, 1)},
    "lipstick": {"woman": (2, 1.5, 1.5, 0.8), "old woman": (2, 1.5, 1, 0.6), "": (1, 0, 0, 0)},
    "expression": {"": (1, 1)},
}


@dataclass(frozen=True)
class Attributes:
    """N avatars: `chosen` int64 [N, len(CHOICES)] and `amounts` float32 [N, len(AMOUNTS)] in -1..1, on the CPU."""

    chosen: Tensor
    amounts: Tensor

    def __len__(self) -> int:
        return self.chosen.shape[0]

    def __getitem__(self, name: str) -> Tensor:
        """One attribute of all avatars: word indices int64 [N] for a choice, float32 [N] for an amount."""
        if name in CHOICES:
            return self.chosen[:, list(CHOICES).index(name)]
        if name in AMOUNTS:
            return self.amounts[:, AMOUNTS.index(name)]
        raise KeyError(f"There is no attribute {name!r}; there are {', '.join([*CHOICES, *AMOUNTS])}.")

    def word(self, name: str, i: int) -> str:
        """The word of avatar `i` for the choice `name`."""
        return CHOICES[name][int(self[name][i])]

    def describe(self, i: int) -> dict[str, str]:
        """All choices of avatar `i` as words."""
        return {name: self.word(name, i) for name in CHOICES}

    def select(self, rows: Tensor | slice) -> "Attributes":
        """A subset of the avatars."""
        return Attributes(self.chosen[rows], self.amounts[rows])

    def having(self, **values: str | float) -> "Attributes":
        """The same avatars with some attributes set for all: a word for a choice, a number for an amount.

        Raises:
            KeyError: there is no such attribute.
            ValueError: the choice has no such word.
        """
        chosen, amounts = self.chosen.clone(), self.amounts.clone()
        for name, value in values.items():
            self[name]
            if name in CHOICES:
                if value not in CHOICES[name]:
                    raise ValueError(f"{name} cannot be {value!r}; it can be {', '.join(CHOICES[name])}.")
                chosen[:, list(CHOICES).index(name)] = CHOICES[name].index(str(value))
            else:
                amounts[:, AMOUNTS.index(name)] = float(value)
        return Attributes(chosen, amounts)


def usual(n: int = 1, **values: str | float) -> Attributes:
    """`n` equal avatars with the first word of every choice, amounts of 0, and what `values` sets (see `having`)."""
    attributes = Attributes(torch.zeros(n, len(CHOICES), dtype=torch.int64), torch.zeros(n, len(AMOUNTS)))
    return attributes.having(**{"hair": "short", **values})


def sample_attributes(n: int, seed: int, split: Split = "train") -> Attributes:
    """Sample `n` avatars by `seed`: plausible people in readable colours. "train" has no held-out pair, every avatar of
    "held_out" has one or two.

    Raises:
        ValueError: the split is unknown.
    """
    if split not in ("train", "held_out"):
        raise ValueError(f"The split is {split!r}; it can be 'train' or 'held_out'.")
    generator = torch.Generator().manual_seed(seed)
    kept: list[Attributes] = []
    while sum(map(len, kept)) < n:
        drawn = _draw(max(64, 2 * n), generator)
        keep = _readable(drawn) & (is_held_out(drawn) == (split == "held_out"))
        kept.append(drawn.select(keep))
    chosen, amounts = torch.cat([part.chosen for part in kept]), torch.cat([part.amounts for part in kept])
    return Attributes(chosen[:n], amounts[:n])


def is_held_out(attributes: Attributes) -> Tensor:
    """Which avatars, bool [N], have a held-out pair: (hair, its colour) or (clothes, their colour)."""
    hair, hair_colour = attributes["hair"], attributes["hair_colour"]
    clothes, clothes_colour = attributes["clothes"], attributes["clothes_colour"]
    held_hair = ((3 * hair + 7 * hair_colour) % len(palette.HAIR) == 5) & (hair != CHOICES["hair"].index("bald"))
    held_clothes = (5 * clothes + clothes_colour) % len(palette.CLOTHES) == 3
    return held_hair | held_clothes


def _draw(n: int, generator: torch.Generator) -> Attributes:
    person = torch.randint(len(PERSONS), (n,), generator=generator)
    columns = [person]
    names = list(CHOICES)
    for name, words in list(CHOICES.items())[1:]:
        weights = torch.stack([_weights(name, kind, len(words)) for kind in PERSONS])
        steps = (weights / weights.sum(dim=1, keepdim=True)).cumsum(dim=1)[person, :-1]
        columns.append((torch.rand(n, 1, generator=generator) >= steps).sum(dim=1))
    chosen = torch.stack(columns, dim=1)
    # No headband on a bald head: it is drawn over the hair.
    bare = chosen[:, names.index("hair")] == CHOICES["hair"].index("bald")
    slips = bare & (chosen[:, names.index("hat")] == CHOICES["hat"].index("headband"))
    chosen[slips, names.index("hat")] = 0
    amounts = torch.rand(n, len(AMOUNTS), generator=generator) * 2 - 1
    return Attributes(chosen, amounts)


def _weights(name: str, person: str, count: int) -> Tensor:
    table: Mapping[str, tuple[float, ...]] = _WEIGHTS.get(name, {})
    return torch.tensor(table.get(person, table.get("", (1.0,) * count)), dtype=torch.float32)


def _readable(attributes: Attributes) -> Tensor:
    """Which avatars, bool [N], have enough contrast between background, clothes, skin and hair."""
    background = palette.colours(palette.BACKGROUND)[attributes["background_colour"]]
    clothes = palette.colours(palette.CLOTHES)[attributes["clothes_colour"]]
    skin = palette.colours(palette.SKIN)[attributes["skin"]]
    hair = palette.colours(palette.HAIR)[attributes["hair_colour"]]
    pairs = ((background, clothes), (background, skin), (background, hair), (clothes, skin), (hair, skin))
    return torch.stack([(a - b).norm(dim=1) > TOO_NEAR for a, b in pairs]).all(dim=0)
