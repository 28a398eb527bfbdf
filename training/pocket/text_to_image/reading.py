"""Parse a prompt: the attributes that it requests, with the words of `CHOICES` that satisfy each.

The parser knows the world's vocabulary and its usual phrasings, in captions, lists of tags and free sentences. Unknown
words are ignored.
"""

import re

from training.pocket.world import palette
from training.pocket.world.attributes import CHOICES

# attribute → the words that satisfy the prompt
Wish = dict[str, frozenset[str]]

_PERSONS = (
    (r"(old|elderly) (woman|lady)|grandmother", "old woman"),
    (r"(old|elderly) (man|guy)|grandfather", "old man"),
    (r"girl", "girl"),
    (r"boy", "boy"),
    (r"woman|lady", "woman"),
    (r"man|guy", "man"),
)
# the first match wins
_HAIR = (
    (r"bald|no hair", {"bald"}),
    (r"afro", {"afro"}),
    (r"bob", {"bob"}),
    (r"bun", {"bun"}),
    (r"ponytail", {"ponytail"}),
    (r"pigtails", {"pigtails"}),
    (r"cropped|very short", {"cropped"}),
    (r"spiky", {"spiky"}),
    (r"curly", {"curly"}),
    (r"wavy", {"long wavy"}),
    (r"long straight", {"long straight"}),
    (r"long\b", {"long straight", "long wavy"}),
    (r"short", {"short"}),
)
_FRINGES = (
    (r"swept back", "swept back"),
    (r"bangs|straight fringe", "bangs"),
    (r"side parting|parted on the side", "side parting"),
    (r"middle parting|parted in the middle", "middle parting"),
)
_CLOTHES = (
    (r"t-shirt", "t-shirt"),
    (r"sweater", "v-neck sweater"),
    (r"shirt", "shirt"),
    (r"hoodie", "hoodie"),
    (r"turtleneck", "turtleneck"),
    (r"dress", "dress"),
    (r"suit", "suit"),
)
_HATS = tuple((rf"{hat}", hat) for hat in CHOICES["hat"][1:])
_BEARDS = ((r"goatee", "goatee"), (r"moustache", "moustache"), (r"beard", "full beard"))
_EARRINGS = ((r"small", "studs"), (r"hoop", "hoops"), (r"drop", "drops"))
_PATTERNS = ((r"striped", "stripes"), (r"dotted", "dots"))
_BREAKS = re.compile(
    r"[,.;]|\b(?:and|with|wearing|against|in front of)\b|\b(?:in|on) an? (?=\S+(?: \S+)? (?:background|wall))"
)


def wishes(prompt: str) -> Wish:
    """The attributes that `prompt` requests: for each one named, the words of `CHOICES` that satisfy it."""
    text = " ".join(prompt.lower().split())
    wish: Wish = {}
    for pattern, person in _PERSONS:
        if re.search(rf"\b(?:{pattern})\b", text):
            wish["person"] = frozenset({person})
            break
    if re.search(r"\b(?:smiling|happy)\b", text):
        wish["expression"] = frozenset({"smiling"})
    if "freckles" in text:
        wish["freckles"] = frozenset({"freckles"})
    if "rosy cheeks" in text:
        wish["cheeks"] = frozenset({"rosy"})
    for word, beard in _BEARDS:
        if re.search(rf"\b{word}\b", text):
            wish["beard"] = frozenset({beard})
            break
    for phrase in _BREAKS.split(text):
        wish.update(_of_phrase(phrase))
    return wish


def _of_phrase(phrase: str) -> Wish:
    found: dict[str, str | None] = {}
    if re.search(r"\bglasses\b", phrase):
        shape = _first(tuple((word, word) for word in CHOICES["glasses"][1:]), phrase)
        wish = {"glasses": frozenset({shape} if shape else CHOICES["glasses"][1:])}
        return wish | _known({"glasses_colour": _colour(palette.FRAMES, phrase)})
    if "earrings" in phrase:
        kind = _first(_EARRINGS, phrase)
        return {"earrings": frozenset({kind} if kind else CHOICES["earrings"][1:])}
    if "lipstick" in phrase:
        found = {"lipstick": _colour(palette.LIPSTICK, phrase)}
    elif re.search(r"\b(?:background|wall)\b", phrase):
        found = {"background_colour": _colour(palette.BACKGROUND, phrase)}
    elif re.search(r"\beyes\b", phrase):
        found = {"eye_colour": _colour(palette.EYES, phrase)}
    elif re.search(r"\bskin\b", phrase):
        found = {"skin": _colour(palette.SKIN, phrase)}
    elif hat := _first(_HATS, phrase):
        found = {"hat": hat, "hat_colour": _colour(palette.CLOTHES, phrase)}
    elif _first(_BEARDS, phrase):
        found = {"hair_colour": _colour(palette.HAIR, phrase)}
    elif fringe := _first(_FRINGES, phrase):
        found = {"fringe": fringe}
    elif clothes := _first(_CLOTHES, phrase):
        pattern = _first(_PATTERNS, phrase)
        found = {"clothes": clothes, "clothes_colour": _colour(palette.CLOTHES, phrase), "pattern": pattern}
    else:
        return _hair(phrase)
    return _known(found)


def _hair(phrase: str) -> Wish:
    wish: Wish = {}
    for pattern, styles in _HAIR:
        # "short" and "long" describe hair only in a phrase with "hair"
        if re.search(rf"\b(?:{pattern})", phrase) and ("hair" in phrase or pattern not in ("short", r"long\b")):
            wish["hair"] = frozenset(styles)
            break
    if wish or "hair" in phrase:
        wish |= _known({"hair_colour": _colour(palette.HAIR, phrase)})
    return wish


def _known(found: dict[str, str | None]) -> Wish:
    return {name: frozenset({word}) for name, word in found.items() if word is not None}


def _first(table: tuple[tuple[str, str], ...], phrase: str) -> str | None:
    return next((word for pattern, word in table if re.search(rf"\b(?:{pattern})\b", phrase)), None)


def _colour(colours: dict[str, palette.Rgb], phrase: str) -> str | None:
    # longest first, so that "dark blue" is not read as "blue"
    names = sorted(colours, key=len, reverse=True)
    return next((name for name in names if re.search(rf"\b{name}\b", phrase)), None)
