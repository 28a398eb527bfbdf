"""One utterance from any voice: sound at 16 kHz and phoneme times."""

import random
from collections.abc import Sequence
from types import TracebackType

import numpy as np
import soxr  # type: ignore[import-untyped]

from training.pocket.speech import flite
from training.pocket.speech.espeak import ACCENTS, Espeak
from training.pocket.speech.utterance import RATE, Phoneme, Utterance
from training.pocket.speech.voices import Delivery, Voice


class Synthesiser:
    """Speaks with any of the voices it was opened with; a context manager, one at a time in a process.

    Raises:
        SpeechToolMissing: espeak-ng or flite is needed for one of the voices and is not installed.
    """

    def __init__(self, voices: Sequence[Voice]) -> None:
        self._espeak = Espeak(voices) if any(voice.engine == "espeak" for voice in voices) else None

    def __enter__(self) -> "Synthesiser":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._espeak is not None:
            self._espeak.__exit__(kind, error, at)

    def speak(self, text: str, voice: Voice, language: str, delivery: Delivery, *, accent: str = "") -> Utterance:
        """Speak `text` in a language of `sentences.LANGUAGES`; `accent` is espeak-ng's name of a variety of it.

        Raises:
            ValueError: the voice does not speak the language, or was not among those this was opened with.
        """
        if language not in voice.languages:
            raise ValueError(f"{voice.name} does not speak {language!r}; it speaks {', '.join(voice.languages)}.")
        if voice.engine == "flite":
            samples, rate, phonemes = flite.speak(text, voice, delivery)
        elif self._espeak is not None:
            samples, phonemes = self._espeak.speak(text, voice, accent or accents(language)[0], delivery)
            rate = self._espeak.rate
        else:
            raise ValueError(
                f"This synthesiser was opened without espeak-ng voices; name {voice.name} when opening it."
            )
        sound = samples.astype(np.float32) / 32768
        # soxr's filters are linear in phase and their delay is taken out, so the times still hold
        resampled = soxr.resample(sound, rate, RATE, quality="HQ") if rate != RATE else sound
        return Utterance(np.asarray(resampled, dtype=np.float32).clip(-1, 1), tuple(phonemes))


def accents(language: str) -> tuple[str, ...]:
    """espeak-ng's names for the varieties of a language; the first is the usual one."""
    return ACCENTS.get(language, (language,))


def joined(parts: Sequence[Utterance], generator: random.Random, *, pauses: tuple[float, float]) -> Utterance:
    """Utterances one after another, with a silence of `pauses` (least, most) seconds before each and after the last."""
    samples: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = []
    phonemes: list[Phoneme] = []
    at = 0
    for part in [*parts, None]:
        silence = round(generator.uniform(*pauses) * RATE)
        phonemes.append(Phoneme("", at / RATE, (at + silence) / RATE))
        samples.append(np.zeros(silence, dtype=np.float32))
        at += silence
        if part is not None:
            offset = at / RATE
            phonemes.extend(Phoneme(each.symbol, each.start + offset, each.end + offset) for each in part.phonemes)
            samples.append(part.samples)
            at += len(part.samples)
    return Utterance(np.concatenate(samples), tuple(phonemes))
