"""From an utterance to viseme events, which `world.visemes.mouth_track` turns into frames.

Besides mapping each phoneme to its viseme, two corrections are made. Times become those of the lips: they close for a
stop as soon as the sound before it ends and open at the burst, wherever the synthesiser marks the phoneme. And every
event gets the loudness of its sound, so that a loud vowel opens the mouth wider than a soft one.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.pocket.speech.phonemes import BREATH, VOICED_STOPS, VOICELESS_STOPS, VOWELS, parse
from training.pocket.speech.utterance import RATE, Phoneme, Utterance
from training.pocket.world.visemes import Sound

# All in seconds: hop and window of the power, search range before a stop, shortest closure, longest event.
_HOP, _WINDOW = 0.005, 0.02
_LOOK_BACK, _SHORTEST_CLOSURE, _LONGEST_PIECE = 0.13, 0.07, 0.08
# Sound whose power is below this share of loud speech (-22 dB) counts as a closure.
_QUIET = 10**-2.2
# The opening is the sound's amplitude to this power, and at least this much during a phoneme.
_POWER, _FAINTEST = 0.6, 0.1


def viseme_events(utterance: Utterance) -> list[Sound]:
    """The viseme events of an utterance, in order and without overlap; between them the mouth is at rest."""
    power = _power(utterance.samples)
    reference = speech_level(utterance.samples)
    segments = _segments(utterance.phonemes)
    _shut_for_stops(segments, power < reference**2 * _QUIET)
    events: list[Sound] = []
    for segment in segments:
        if segment.viseme == "rest" or segment.end <= segment.start:
            continue
        pieces = int(np.ceil((segment.end - segment.start) / _LONGEST_PIECE - 1e-9))
        edges = np.linspace(segment.start, segment.end, max(1, pieces) + 1).tolist()
        for start, end in itertools.pairwise(edges):
            amplitude = _amplitude(utterance.samples, start, end)
            loud = min(1.0, max(_FAINTEST, (amplitude / reference) ** _POWER)) if reference > 0 else 0.0
            events.append(Sound(start, end, segment.viseme, loud))
    return events


def speech_level(samples: NDArray[np.float32]) -> float:
    """The amplitude of loud speech: of the loudest twentieth of a clip without pauses; 0 if it is silent."""
    power = _power(samples)
    heard = power[power > power.max(initial=0.0) * 1e-4]
    return float(np.sqrt(np.quantile(heard, 0.95))) if len(heard) else 0.0


@dataclass
class _Segment:
    viseme: str
    start: float
    end: float
    stop: str


def _segments(phonemes: Sequence[Phoneme]) -> list[_Segment]:
    segments: list[_Segment] = []
    for phoneme in phonemes:
        names = parse(phoneme.symbol) or ["rest"]
        # the first vowel of a diphthong is longer, and a consonant written together with a vowel is short
        shares = [0.6 if name in VOWELS and i == 0 else 0.4 for i, name in enumerate(names)]
        ends = phoneme.start + (phoneme.end - phoneme.start) * np.cumsum(shares) / sum(shares)
        start, letter = phoneme.start, phoneme.symbol[:1]
        for name, end in zip(names, ends.tolist(), strict=True):
            stop = "voiceless" if letter in VOICELESS_STOPS else "voiced" if letter in VOICED_STOPS else ""
            segments.append(_Segment(name, start, end, stop if letter else ""))
            start = end
    following = "rest"
    for segment in reversed(segments):
        if segment.viseme == BREATH:
            segment.viseme = following if following in VOWELS else "AH"
        following = segment.viseme
    return segments


def _shut_for_stops(segments: list[_Segment], quiet: NDArray[np.bool_]) -> None:
    """Move the start of each stop to the end of the sound before it, and its end to the burst."""

    def is_quiet(time: float) -> bool:
        at = int(time / _HOP)
        return at >= len(quiet) or bool(quiet[at])

    for place in range(1, len(segments)):
        before, stop = segments[place - 1], segments[place]
        after = segments[place + 1] if place + 1 < len(segments) else None
        if not stop.stop:
            continue
        burst = stop.start
        while burst < stop.end - _HOP and is_quiet(burst):
            burst += _HOP
        closed = stop.start
        earliest = max(stop.start - _LOOK_BACK, before.start)
        while closed - _HOP > earliest and is_quiet(closed - _HOP):
            closed -= _HOP
        share = 0.35 if stop.stop == "voiceless" else 0.75
        released = max(burst, stop.start + share * (stop.end - stop.start))
        if stop.viseme == "M":
            # a short closure is not visible: start it earlier, but keep at least 40 % of the previous sound
            limit = before.start if before.viseme == "rest" else before.start + 0.4 * (before.end - before.start)
            closed = min(closed, max(released - _SHORTEST_CLOSURE, limit))
        stop.start = before.end = closed
        if after is not None and after.viseme in VOWELS and after.start == stop.end:
            stop.end = after.start = released


def _power(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean power over 20 ms windows, every 5 ms."""
    hop, reach = round(_HOP * RATE), round(_WINDOW * RATE / 2)
    total = np.concatenate([[0.0], np.cumsum(np.asarray(samples, dtype=np.float64) ** 2)])
    centres = np.arange(0, len(samples), hop)
    low, high = np.maximum(centres - reach, 0), np.minimum(centres + reach, len(samples))
    return np.asarray((total[high] - total[low]) / np.maximum(high - low, 1))


def _amplitude(samples: NDArray[np.float32], start: float, end: float) -> float:
    piece = samples[round(start * RATE) : max(round(end * RATE), round(start * RATE) + 1)].astype(np.float64)
    return float(np.sqrt(np.mean(piece * piece))) if len(piece) else 0.0
