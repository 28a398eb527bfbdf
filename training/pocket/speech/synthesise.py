"""Synthesise one utterance from any voice: sound at 16 kHz and phoneme times."""

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
    """A synthesiser for the given voices; a context manager, one per process at a time.

    Raises:
        SpeechToolMissing: espeak-ng or flite is not installed and one of the voices needs it.
    """

    def __init__(self, voices: Sequence[Voice]) -> None:
        self._espeak = Espeak(voices) if any(voice.engine == "espeak" for voice in voices) else None

    def __enter__(self) -> "Synthesiser":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._espeak is not None:
            self._espeak.__exit__(kind, error, at)

    def speak(self, text: str, voice: Voice, language: str, delivery: Delivery, *, accent: str = "") -> Utterance:
        """Speak `text` in a language of `sentences.LANGUAGES`; `accent` is espeak-ng's name of an accent.

        Raises:
            ValueError: the voice does not speak the language, or the synthesiser was opened without it.
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
        # soxr's filters have linear phase and compensated delay, so the phoneme times stay valid
        resampled = soxr.resample(sound, rate, RATE, quality="HQ") if rate != RATE else sound
        return Utterance(np.asarray(resampled, dtype=np.float32).clip(-1, 1), tuple(phonemes))


def accents(language: str) -> tuple[str, ...]:
    """espeak-ng's accents of a language; the first is the default."""
    return ACCENTS.get(language, (language,))


def joined(parts: Sequence[Utterance], generator: random.Random, *, pauses: tuple[float, float]) -> Utterance:
    """Concatenate utterances, with silences of `pauses` (min, max) seconds before each and after the last."""
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
