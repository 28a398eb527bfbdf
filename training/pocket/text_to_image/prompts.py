"""Training prompts for a drawn avatar, from a word or two to everything that is visible.

The world's captions nearly always name hair, clothes and background, each with style and colour. Users also write "a
woman with red hair and glasses", so half of the prompts name few attributes, loosely.
"""

import random

from training.pocket.world.attributes import Attributes
from training.pocket.world.captions import SAYABLE, caption, listed, visible, with_article, with_right_article

_PERSONS = {
    "woman": ("woman", "young woman", "lady"),
    "man": ("man", "young man", "guy"),
    "girl": ("girl", "little girl"),
    "boy": ("boy", "little boy"),
    "old woman": ("old woman", "elderly woman", "grandmother"),
    "old man": ("old man", "elderly man", "grandfather"),
}
_HAIR = {
    "bald": ("bald head",),
    "cropped": ("cropped hair", "very short hair", "cropped {c} hair"),
    "short": ("short hair", "short {c} hair"),
    "spiky": ("spiky hair", "spiky {c} hair"),
    "curly": ("curly hair", "curly {c} hair"),
    "afro": ("an afro", "a {c} afro"),
    "bob": ("a bob", "a {c} bob"),
    "long straight": ("long straight hair", "long straight {c} hair", "long {c} hair"),
    "long wavy": ("long wavy hair", "wavy {c} hair"),
    "bun": ("hair in a bun", "a {c} bun"),
    "ponytail": ("a ponytail", "a {c} ponytail"),
    "pigtails": ("pigtails", "{c} pigtails"),
}
_FRINGES = {
    "swept back": ("hair swept back",),
    "bangs": ("bangs",),
    "side parting": ("a side parting",),
    "middle parting": ("a middle parting",),
}
_BEARDS = {
    "moustache": ("a moustache", "a {c} moustache"),
    "goatee": ("a goatee", "a {c} goatee"),
    "full beard": ("a beard", "a full beard", "a {c} beard"),
}
_EARRINGS = {"studs": "small earrings", "hoops": "hoop earrings", "drops": "drop earrings"}
_PATTERNS = {"stripes": "striped ", "dots": "dotted "}
_OPENINGS = (
    "",
    "",
    "",
    "a portrait of ",
    "portrait of ",
    "a picture of ",
    "an avatar of ",
    "a cartoon of ",
    "a photo of ",
)
# words about the picture's style, not its content
_MANNERS = (
    "cartoon style",
    "flat illustration",
    "vector art",
    "highly detailed",
    "looking at the camera",
    "front view",
    "simple",
    "best quality",
    "studio light",
    "head and shoulders",
)


def prompt(attributes: Attributes, i: int, seed: int) -> str:
    """A prompt that describes avatar `i`; equal seeds give equal prompts."""
    dice = random.Random(f"{seed}/{i}/prompt")
    if dice.random() < 0.5:
        text = caption(attributes, i, seed, must=[name for name in SAYABLE if dice.random() < 0.3])
    else:
        text = _loose(attributes, i, dice)
    if dice.random() < 0.12:
        text += ", " + ", ".join(dice.sample(_MANNERS, dice.randint(1, 3)))
    if dice.random() < 0.3:
        text = text[0].upper() + text[1:]
    if dice.random() < 0.3:
        text += "."
    return text


def _loose(attributes: Attributes, i: int, dice: random.Random) -> str:
    look = attributes.describe(i)
    seen = [*visible(attributes, i), *(["cheeks"] if look["cheeks"] == "rosy" else [])]
    said = dice.sample(seen, min(len(seen), dice.choice((0, 1, 2, 2, 3, 3, 4, 4, 5, 6, 8))))
    if "hair" in seen and "hair" not in said and dice.random() < 0.4:
        said.insert(0, "hair")
    phrases = {name: _phrase(name, look, dice) for name in said}
    subject = dice.choice(_PERSONS[look["person"]])
    place = phrases.pop("background", None)
    smile = phrases.pop("expression", None)
    worn = [phrases.pop(name) for name in ("clothes", "hat") if name in phrases]
    if dice.random() < 0.2:
        # a list of tags, in random order after the person
        tags = [*phrases.values(), *worn, *([place] if place else []), *([smile] if smile else [])]
        dice.shuffle(tags)
        return ", ".join([subject, *(tag.removeprefix("a ").removeprefix("an ") for tag in tags)])
    text = dice.choice(_OPENINGS) + with_article(f"{smile} {subject}" if smile else subject)
    if phrases:
        text += " with " + listed(list(phrases.values()))
    if worn:
        text += (", wearing " if phrases else dice.choice((" wearing ", " in "))) + listed(worn)
    if place:
        text += dice.choice((f", {place}", f" on {with_article(place)}", f", in front of {with_article(place)}"))
    return text


def _phrase(name: str, look: dict[str, str], dice: random.Random) -> str:
    colour = look["hair_colour"]
    if name == "hair":
        plain = () if look["hair"] == "bald" else ("{c} hair",)
        return with_right_article(dice.choice((*_HAIR[look["hair"]], *plain)).format(c=colour))
    if name == "fringe":
        return dice.choice(_FRINGES[look["fringe"]])
    if name == "beard":
        return with_right_article(dice.choice(_BEARDS[look["beard"]]).format(c=colour))
    if name == "glasses":
        shape, frame = look["glasses"], look["glasses_colour"]
        return dice.choice(("glasses", f"{shape} glasses", f"{frame} glasses", f"{shape} {frame} glasses"))
    if name == "clothes":
        clothes = look["clothes"].removeprefix("v-neck ") if dice.random() < 0.3 else look["clothes"]
        pattern = _PATTERNS.get(look["pattern"], "") if look["clothes"] != "suit" and dice.random() < 0.6 else ""
        dye = f"{look['clothes_colour']} " if dice.random() < 0.75 else ""
        return with_article(f"{dye}{pattern}{clothes}")
    if name == "hat":
        hat = f"{look['hat_colour']} {look['hat']}" if dice.random() < 0.7 else look["hat"]
        return hat if look["hat"] == "headphones" else with_article(hat)
    if name == "background":
        return f"{look['background_colour']} {dice.choice(('background', 'background', 'wall'))}"
    if name == "earrings":
        return dice.choice(("earrings", _EARRINGS[look["earrings"]], _EARRINGS[look["earrings"]]))
    if name == "lipstick":
        return f"{look['lipstick']} lipstick"
    if name == "expression":
        return dice.choice(("smiling", "happy"))
    return {
        "skin": f"{look['skin']} skin",
        "eye_colour": f"{look['eye_colour']} eyes",
        "freckles": "freckles",
        "cheeks": "rosy cheeks",
    }[name]
