"""Captions: the looks of an avatar and the actions of a clip in plain words, with varied phrasing."""

import random
from collections.abc import Collection, Sequence

from training.pocket.world.attributes import Attributes

# Attributes that a caption can name.
SAYABLE = (
    "hair",
    "fringe",
    "skin",
    "eye_colour",
    "glasses",
    "beard",
    "clothes",
    "background",
    "hat",
    "earrings",
    "freckles",
    "lipstick",
    "expression",
)
# Probability that a caption names an attribute that is optional.
_OFTEN = {
    "hair": 0.95,
    "fringe": 0.3,
    "skin": 0.5,
    "eye_colour": 0.35,
    "glasses": 0.9,
    "beard": 0.9,
    "clothes": 0.8,
    "background": 0.85,
    "hat": 0.9,
    "earrings": 0.6,
    "freckles": 0.6,
    "lipstick": 0.5,
    "expression": 0.5,
}
_PERSONS = {
    "woman": ("woman", "woman", "young woman", "lady"),
    "man": ("man", "man", "young man", "guy"),
    "girl": ("girl", "girl", "little girl"),
    "boy": ("boy", "boy", "little boy"),
    "old woman": ("old woman", "elderly woman", "grandmother"),
    "old man": ("old man", "elderly man", "grandfather"),
}
_OPENINGS = ("", "", "", "a portrait of ", "a cartoon of ", "a drawing of ", "an avatar of ", "a picture of ")
_HAIR = {
    "bald": ("a bald head", "no hair"),
    "cropped": ("cropped {c} hair", "very short {c} hair"),
    "short": ("short {c} hair", "short {c} hair"),
    "spiky": ("spiky {c} hair", "{c} spiky hair"),
    "curly": ("curly {c} hair", "short curly {c} hair"),
    "afro": ("a {c} afro", "a big {c} afro"),
    "bob": ("a {c} bob", "{c} hair in a bob"),
    "long straight": ("long straight {c} hair", "long {c} hair"),
    "long wavy": ("long wavy {c} hair", "wavy {c} hair"),
    "bun": ("{c} hair in a bun", "a {c} bun"),
    "ponytail": ("a {c} ponytail", "{c} hair in a ponytail"),
    "pigtails": ("{c} pigtails", "{c} hair in pigtails"),
}
_FRINGES = {
    "swept back": ("hair swept back",),
    "bangs": ("bangs", "a straight fringe"),
    "side parting": ("a side parting", "hair parted on the side"),
    "middle parting": ("a middle parting", "hair parted in the middle"),
}
_BEARDS = {
    "moustache": ("a {c} moustache",),
    "goatee": ("a {c} goatee", "a {c} moustache and goatee"),
    "full beard": ("a {c} beard", "a full {c} beard"),
}
_HIDING = ("afro", "bob", "long straight", "long wavy")
_ACTIONS = {
    "nod": ("nods", "nods {her} head", "is nodding"),
    "shake head": ("shakes {her} head", "is shaking {her} head"),
    "turn left": ("turns to the left", "turns {her} head to the left", "turns left"),
    "turn right": ("turns to the right", "turns {her} head to the right", "turns right"),
    "look up": ("looks up", "raises {her} head and looks up"),
    "look down": ("looks down", "lowers {her} head and looks down"),
    "glance left": ("glances to the left", "moves {her} eyes to the left"),
    "glance right": ("glances to the right", "moves {her} eyes to the right"),
    "tilt left": ("tilts {her} head to the left", "leans {her} head to the left"),
    "tilt right": ("tilts {her} head to the right", "leans {her} head to the right"),
    "blink": ("blinks", "blinks slowly", "is blinking"),
    "close eyes": ("closes {her} eyes", "shuts {her} eyes"),
    "raise brows": ("raises {her} eyebrows", "lifts {her} eyebrows"),
    "smile": ("smiles", "starts to smile", "gives a big smile"),
    "open mouth": ("opens {her} mouth", "opens {her} mouth wide"),
    "sway": ("sways from side to side", "dances", "rocks from side to side"),
}
_CAMERA = {
    "zoom in": ("zoom in", "the camera zooms in", "the camera moves closer"),
    "zoom out": ("zoom out", "the camera zooms out", "the camera moves back"),
    "pan left": ("the camera pans left", "the camera moves to the left"),
    "pan right": ("the camera pans right", "the camera moves to the right"),
    "pan up": ("the camera pans up", "the camera moves up"),
    "pan down": ("the camera pans down", "the camera moves down"),
}


def caption(
    attributes: Attributes,
    i: int,
    seed: int,
    *,
    actions: Sequence[str] = (),
    must: Collection[str] = ("hair", "background"),
    brief: bool = False,
) -> str:
    """Describe the looks of avatar `i` and, for a clip, its actions.

    Args:
        attributes: the avatars.
        i: index of the avatar to describe.
        seed: selects attributes and phrasing; equal seeds give equal captions.
        actions: movements by the names of `motion.ACTIONS`; all of them are named.
        must: attributes of `SAYABLE` to name whenever they are visible; the others are named at random.
        brief: with `actions`, omit the looks and name only the actions ("she nods").

    Raises:
        KeyError: `must` or `actions` has an unknown name.
    """
    dice = random.Random(f"{seed}/{i}")
    unknown = set(must) - set(SAYABLE)
    if unknown:
        raise KeyError(f"A caption cannot name {', '.join(sorted(unknown))}; choose from {', '.join(SAYABLE)}.")
    person = attributes.word("person", i)
    deeds = motion_words(actions, person, dice)
    if brief and deeds:
        return deeds
    shown = visible(attributes, i)
    said = [name for name in SAYABLE if name in shown and (name in must or dice.random() < _OFTEN[name])]
    looks = _looks(attributes, i, said, dice)
    if not deeds:
        return looks
    return f"{looks}. {deeds}" if dice.random() < 0.5 else f"{looks}, {deeds}"


def visible(attributes: Attributes, i: int) -> tuple[str, ...]:
    """The attributes of `SAYABLE` visible on avatar `i`: glasses if worn, earrings unless hair covers them."""
    look = attributes.describe(i)
    bald = look["hair"] == "bald"
    capped = look["hat"] == "beanie"
    seen = {
        "fringe": not bald and look["hair"] != "cropped" and not capped,
        "hair": not (capped and look["hair"] in ("bald", "cropped")),
        "glasses": look["glasses"] != "none",
        "beard": look["beard"] != "none",
        "hat": look["hat"] != "none",
        "earrings": look["earrings"] != "none" and look["hair"] not in _HIDING and look["hat"] != "headphones",
        "freckles": look["freckles"] != "none",
        "lipstick": look["lipstick"] != "natural",
        "expression": look["expression"] != "neutral",
    }
    return tuple(name for name in SAYABLE if seen.get(name, True))


def motion_words(actions: Sequence[str], person: str, dice: random.Random) -> str:
    """ "she nods and smiles, the camera pans left" for actions by name; "" for no actions."""
    unknown = [name for name in actions if name not in _ACTIONS and name not in _CAMERA]
    if unknown:
        raise KeyError(f"Unknown actions: {', '.join(unknown)}; choose from {', '.join([*_ACTIONS, *_CAMERA])}.")
    female = person in ("woman", "girl", "old woman")
    she, her = ("she", "her") if female else ("he", "his")
    deeds = [dice.choice(_ACTIONS[name]).format(her=her) for name in actions if name in _ACTIONS]
    moves = [dice.choice(_CAMERA[name]) for name in actions if name in _CAMERA]
    parts = [f"{she} {' and '.join(deeds)}"] if deeds else []
    return ", ".join(parts + moves)


def _looks(attributes: Attributes, i: int, said: Sequence[str], dice: random.Random) -> str:
    look = attributes.describe(i)
    phrases = {name: _phrase(name, look, dice) for name in said}
    subject = dice.choice(_PERSONS[look["person"]])
    if "expression" in phrases:
        subject = f"{phrases.pop('expression')} {subject}"
    worn = [phrases.pop(name) for name in ("clothes", "hat") if name in phrases]
    place = phrases.pop("background", None)
    features = list(phrases.values())
    # The hair usually comes first, the rest in random order.
    rest = features[1:]
    dice.shuffle(rest)
    features = features[:1] + rest
    text = dice.choice(_OPENINGS) + with_article(subject)
    if features:
        text += " with " + listed(features)
    if worn:
        text += (", wearing " if features else " wearing ") + listed(worn)
    if place:
        text += ", " + place
    return text


def _phrase(name: str, look: dict[str, str], dice: random.Random) -> str:
    hair_colour = look["hair_colour"]
    if name == "hair":
        text = dice.choice(_HAIR[look["hair"]]).format(c=hair_colour)
    elif name == "fringe":
        text = dice.choice(_FRINGES[look["fringe"]])
    elif name == "skin":
        text = f"{look['skin']} skin"
    elif name == "eye_colour":
        text = f"{look['eye_colour']} eyes"
    elif name == "glasses":
        text = dice.choice((f"{look['glasses']} glasses", f"{look['glasses']} {look['glasses_colour']} glasses"))
    elif name == "beard":
        text = dice.choice(_BEARDS[look["beard"]]).format(c=hair_colour)
    elif name == "clothes":
        patterned = {"stripes": "striped ", "dots": "dotted "}.get(look["pattern"], "")
        pattern = patterned if look["clothes"] != "suit" and dice.random() < 0.8 else ""
        text = f"a {look['clothes_colour']} {pattern}{look['clothes']}"
    elif name == "background":
        colour = look["background_colour"]
        text = dice.choice(
            (
                f"{colour} background",
                f"on {with_article(colour)} background",
                f"in front of {with_article(colour)} wall",
            )
        )
    elif name == "hat":
        text = (
            f"{look['hat_colour']} headphones"
            if look["hat"] == "headphones"
            else f"a {look['hat_colour']} {look['hat']}"
        )
    elif name == "earrings":
        text = {"studs": "small earrings", "hoops": "hoop earrings", "drops": "drop earrings"}[look["earrings"]]
    elif name == "freckles":
        text = "freckles"
    elif name == "lipstick":
        text = f"{look['lipstick']} lipstick"
    else:
        text = dice.choice(("smiling", "happy"))
    return with_right_article(text)


def with_right_article(text: str) -> str:
    """ "an orange bob" for "a orange bob"; other text as it is."""
    return "an " + text[2:] if text[:2] == "a " and text[2] in "aeio" else text


def with_article(noun: str) -> str:
    """ "a bob", "an orange bob"."""
    return with_right_article("a " + noun)


def listed(parts: Sequence[str]) -> str:
    """ "glasses, a hat and a beard"; at least one part."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
