"""The voices: their definitions, delivery, and which are held out.

There are three kinds: espeak-ng's stock variants; variants generated here with other formants, breath, roughness and
pitch, so that no single timbre is learnt; and flite's voices, built from recordings of people, which differ from
espeak-ng in sound and timing. Whole voices of every kind are held out.
"""

import random
from dataclasses import dataclass
from typing import Literal

from training.pocket.speech.sentences import LANGUAGES, Split

OWN_VOICES = 48
_OWN_SEED = 20240611

# Without variants that only change another's pitch, have a long echo or are unintelligible.
_STOCK_TRAIN = (
    "m1 m2 m3 m4 m6 m7 m8 f1 f2 f4 f5 croak klatt klatt2 klatt4 klatt5 whisper aunty grandpa edward john linda "
    "michel pablo quincy robert steph victor zac belinda Alicia Andy Mario Denis Henrique Jacky Lee Marco Michael "
    "Nguyen norbert travis"
).split()
_STOCK_HELD_OUT = "m5 f3 klatt3 whisperf grandma benjamin Annie Diogo boris anika".split()
_FLITE_TRAIN = ("awb", "kal16")
_FLITE_HELD_OUT = ("slt", "rms")


@dataclass(frozen=True)
class Voice:
    """A voice.

    `engine` is the synthesiser and `name` the voice's name there; `definition` is the text of an espeak-ng variant file
    for voices generated here, else empty.
    """

    name: str
    engine: Literal["espeak", "flite"]
    definition: str = ""

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages of the voice."""
        return LANGUAGES if self.engine == "espeak" else ("en",)


@dataclass(frozen=True)
class Delivery:
    """Speaking style: `rate` in words per minute; `pitch` and `range_` 0..99, 50 is the voice's default."""

    rate: int = 175
    pitch: int = 50
    range_: int = 50


def voices(split: Split) -> list[Voice]:
    """All voices of one split; the splits share no voice."""
    train = split == "train"
    stock = [Voice(name, "espeak") for name in (_STOCK_TRAIN if train else _STOCK_HELD_OUT)]
    own = [voice for i, voice in enumerate(own_voices()) if (i % 6 != 5) == train]
    return stock + own + [Voice(name, "flite") for name in (_FLITE_TRAIN if train else _FLITE_HELD_OUT)]


def own_voices() -> list[Voice]:
    """The variants generated here, from a fixed seed: men, women and children, alternating."""
    generator = random.Random(_OWN_SEED)
    return [_draw_voice(f"own{i:02d}", ("man", "woman", "child")[i % 3], generator) for i in range(OWN_VOICES)]


def delivery(language: str, generator: random.Random) -> Delivery:
    """Sample a delivery: slow to fast, low to high, flat to lively.

    espeak-ng counts every Mandarin syllable as a word, so the same pace needs a higher rate.
    """
    rate = round(generator.triangular(110, 260, 170))
    return Delivery(
        rate=round(rate * 1.45) if language == "zh" else rate,
        pitch=generator.randint(10, 95),
        range_=generator.randint(20, 90),
    )


def _draw_voice(name: str, kind: str, generator: random.Random) -> Voice:
    # Vocal tract length scales all formants together; its shape varies each a little.
    throat = {"man": (0.90, 1.06), "woman": (1.08, 1.24), "child": (1.22, 1.42)}[kind]
    low = {"man": (68, 110), "woman": (140, 200), "child": (200, 280)}[kind]
    scale = generator.uniform(*throat)
    base = generator.uniform(*low)
    lines = ["language variant", f"name {name}", f"gender {'male' if kind == 'man' else 'female'}"]
    lines.append(f"pitch {base:.0f} {base * generator.uniform(1.25, 1.8):.0f}")
    for formant in range(9):
        frequency = 100 * scale * generator.uniform(0.94, 1.06)
        # higher formants are weaker in most voices, by a widely varying amount
        strength = generator.uniform(70, 115) if formant < 4 else generator.uniform(40, 115)
        lines.append(f"formant {formant} {frequency:.0f} {strength:.0f} {generator.uniform(75, 150):.0f}")
    lines.append(f"flutter {generator.randint(1, 14)}")
    lines.append(f"roughness {generator.randint(0, 5)}")
    lines.append(f"consonants {generator.randint(70, 150)} {generator.randint(70, 150)}")
    lines.append(f"voicing {generator.randint(60, 130)}")
    if generator.random() < 0.4:
        breath = [str(generator.randint(0, 6)) for _ in range(8)]
        lines.append("breath " + " ".join(breath))
    if generator.random() < 0.3:
        lines.append(f"klatt {generator.randint(1, 5)}")
    return Voice(name, "espeak", "\n".join(lines) + "\n")
