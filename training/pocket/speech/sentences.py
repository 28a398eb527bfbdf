"""Texts of the corpus: sentences, numbers and syllable drills, in nine languages.

The sentences are in `texts/`, one per line, written for this project, with many bilabials (closed lips). Every fifth is
held out: it is spoken only in the held-out split. Languages have espeak-ng's names, except `en` and `zh`, for which
espeak-ng has several accents.
"""

import functools
import random
from pathlib import Path
from typing import Literal

Split = Literal["train", "held_out"]

LANGUAGES = ("en", "ko", "zh", "de", "fr", "es", "it", "ja", "ru")
HELD_OUT_EVERY = 5

_TEXTS = Path(__file__).parent / "texts"
# Consonants with visible lip movement are more frequent.
_LATIN_ONSETS = "b m p b m p f v w l t s n k d g r".split()
_LATIN_VOWELS = {
    "en": "ah ee oo oh ay".split(),
    "de": "a i u o e ö ü".split(),
    "fr": "a i ou o é eu".split(),
    "es": "a i u o e".split(),
    "it": "a i u o e".split(),
}
_KANA_ROWS = "ばびぶべぼ まみむめも ぱぴぷぺぽ わらりるれろ かきくけこ さしすせそ たちつてと なにぬねの".split()
_PINYIN_ONSETS = "b m p f d t l g k h".split()
_PINYIN_VOWELS = "a u ei ao an".split()
_RUSSIAN_ONSETS = "б м п в ф л т с н к р".split()
_RUSSIAN_VOWELS = "а и у о э".split()
# Indices in Unicode's composition of Hangul syllables.
_HANGUL_ONSETS = (6, 7, 8, 17, 6, 7, 0, 2, 3, 5, 9, 12, 18)
_HANGUL_VOWELS = (0, 4, 5, 8, 13, 18, 20)


def sentences(language: str, split: Split | None = None) -> list[str]:
    """The sentences of a language, of one split or all.

    Raises:
        ValueError: the language is not one of `LANGUAGES`.
    """
    lines = _lines(language)
    if split is None:
        return list(lines)
    held_out = split == "held_out"
    return [line for i, line in enumerate(lines) if (i % HELD_OUT_EVERY == HELD_OUT_EVERY - 1) == held_out]


def numbers(generator: random.Random) -> str:
    """Two to five numbers up to a million, as digits, which the synthesiser reads out in its language."""
    count = generator.randint(2, 5)
    return ", ".join(str(generator.randrange(10 ** generator.randint(1, 6))) for _ in range(count))


def drill(language: str, generator: random.Random) -> str:
    """Syllables such as "ba ba mee moh, pah fah vah": four to twelve, some repeated, with occasional pauses.

    Raises:
        ValueError: the language is not one of `LANGUAGES`.
    """
    parts: list[str] = []
    left = generator.randint(4, 12)
    while left > 0:
        syllable = _syllable(language, generator)
        times = min(left, generator.choice((1, 1, 1, 2, 3)))
        left -= times
        parts.append(" ".join([syllable] * times))
        if left > 0:
            parts.append(", " if generator.random() < 0.2 else " ")
    return "".join(parts) + "."


@functools.cache
def _lines(language: str) -> tuple[str, ...]:
    if language not in LANGUAGES:
        raise ValueError(f"There are no sentences in {language!r}; choose from {', '.join(LANGUAGES)}.")
    text = (_TEXTS / f"{language}.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line)


def _syllable(language: str, generator: random.Random) -> str:
    if language == "ko":
        return chr(0xAC00 + (generator.choice(_HANGUL_ONSETS) * 21 + generator.choice(_HANGUL_VOWELS)) * 28)
    if language == "ja":
        return generator.choice(generator.choice(_KANA_ROWS))
    if language == "zh":
        tone = generator.randint(1, 4)
        return f"{generator.choice(_PINYIN_ONSETS)}{generator.choice(_PINYIN_VOWELS)}{tone}"
    if language == "ru":
        return generator.choice(_RUSSIAN_ONSETS) + generator.choice(_RUSSIAN_VOWELS)
    if language not in _LATIN_VOWELS:
        raise ValueError(f"There are no syllables in {language!r}; choose from {', '.join(LANGUAGES)}.")
    return generator.choice(_LATIN_ONSETS) + generator.choice(_LATIN_VOWELS[language])
