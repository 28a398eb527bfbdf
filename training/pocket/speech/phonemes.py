"""Map phonemes, given in IPA, to visemes, for any language."""

# Letters of the International Phonetic Alphabet by viseme. Letters that are not listed are modifiers of the one before
# (length, tone, voicing) and change the lips too little to be drawn.
VISEME_OF: dict[str, str] = {
    letter: viseme
    for viseme, letters in {
        "M": "m p b ɓ β ʙ",
        "F": "f v ʋ ɱ ⱱ",
        "AA": "a ɑ ɐ æ ɶ",
        "EH": "e ɛ",
        "AH": "ə ʌ ɜ ɘ ɤ ɞ",
        "IY": "i ɪ j ɨ ɯ",
        "OH": "o ɔ ɒ ø œ ɵ",
        "UW": "u ʊ w y ʏ ʉ ʍ ɸ ɥ",
        "TH": "θ ð l ɫ ɬ ɭ ʎ ʟ r ɾ ɽ",
        "S": "s z t d n ɲ ɳ ʈ ɖ c ɟ ç ʝ",
        "SH": "ʃ ʒ ɕ ʑ ʂ ʐ",
        "R": "ɹ ɻ ɝ ɚ",
        "K": "k ɡ g ŋ x ɣ q ɢ χ ʁ ʀ ɴ ħ ʕ ʔ ɰ",
    }.items()
    for letter in letters.split()
}
VOWELS = frozenset({"AA", "EH", "AH", "IY", "OH", "UW"})
BREATH = "h"
VOICELESS_STOPS = frozenset("ptkqcʈ")
VOICED_STOPS = frozenset("bdɡgɓɖɟɢ")

_BREATHS = frozenset("hɦ")
_SIBILANTS = frozenset("szʃʒɕʑʂʐ")
_ROUNDED = frozenset("ᵝʷ")


def parse(symbol: str) -> list[str]:
    """The visemes of an IPA symbol such as "m", "aɪ" or "tʃʰ", in order; an empty list for a pause.

    An affricate is reduced to its second half, which is the visible one. `BREATH` stands for an h, whose mouth is that
    of the vowel after it; an h that only aspirates the consonant before it is left out.
    """
    found: list[str] = []
    for i, letter in enumerate(symbol):
        following = symbol[i + 1 : i + 2]
        if letter in "tdʈɖ" and following in _SIBILANTS and following:
            continue
        if letter in _ROUNDED and found and found[-1] == "IY":
            found[-1] = "UW"
        elif letter in _BREATHS and i == 0:
            found.append(BREATH)
        elif letter == "ʲ" and i == 0:
            found.append("IY")
        elif letter in VISEME_OF and found[-1:] != [VISEME_OF[letter]]:
            found.append(VISEME_OF[letter])
    return found
