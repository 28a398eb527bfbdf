"""Build the speech corpus: sound with mouth tracks, for all voices and languages.

    python -m training.pocket.speech.corpus --out data/pocket/speech

Needs espeak-ng and flite (`apt-get install -y espeak-ng libespeak-ng1 flite`) and writes one file, speech.safetensors.
Equal seed, tools and machine give an identical file: clips are spoken in a fixed order in fresh processes, since a
synthesiser's internal state affects later clips.
"""

import argparse
import multiprocessing
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.pocket.speech.sentences import Split, drill, numbers, sentences
from training.pocket.speech.synthesise import Synthesiser, accents, joined
from training.pocket.speech.utterance import RATE, Phoneme, Utterance
from training.pocket.speech.voices import Delivery, Voice, delivery, voices

_FPS = 16
# More than half in the languages of the samples and the interface, the rest shared by the others.
_LANGUAGE_SHARES = {"en": 28, "ko": 15, "zh": 15, "de": 7, "fr": 7, "es": 7, "it": 7, "ja": 7, "ru": 7}
_KINDS: dict[Split, dict[str, int]] = {
    "train": {"sentences": 76, "drill": 14, "numbers": 7, "silence": 3},
    "held_out": {"sentences": 86, "drill": 8, "numbers": 6},
}
# Seconds. Longer than a training segment of 81 frames (5.1 s), so that its start can be chosen at random.
_SHORTEST = 6.5
# flite's voices are few and the most natural: each gets as much speech as this many of espeak-ng's.
_FLITE_WEIGHT = 4
_VOICES_PER_PROCESS = 8


@dataclass(frozen=True)
class Spoken:
    """A clip from the synthesiser."""

    split: Split
    kind: str
    language: str
    voice: Voice
    delivery: Delivery
    text: str
    utterance: Utterance


def speak_corpus(minutes: dict[Split, float], seed: int, *, only: int | None = None) -> list[Spoken]:
    """Synthesise about `minutes` per split, shared evenly by its voices, or by its first `only` voices.

    Every voice speaks at least one clip.

    Raises:
        SpeechToolMissing: espeak-ng or flite is not installed.
    """
    tasks: list[tuple[Split, list[Voice], float, int]] = []
    for split, wanted in minutes.items():
        cast = voices(split)[:only]
        share = wanted * 60 / sum(_weight(voice) for voice in cast)
        for first in range(0, len(cast), _VOICES_PER_PROCESS):
            tasks.append((split, cast[first : first + _VOICES_PER_PROCESS], share, seed * 1000 + len(tasks)))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=context, max_tasks_per_child=1) as pool:
        return [spoken for batch in pool.map(_speak_batch, tasks) for spoken in batch]


def build(out: Path, *, minutes: dict[Split, float], seed: int = 0, only: int | None = None) -> Path:
    """Synthesise (see `speak_corpus`), compute mouth tracks and write `out`/speech.safetensors; returns its path."""
    # imported late: these import torch, which takes seconds in every synthesis process
    from training.pocket.speech.clips import Clip, Recorded, write_corpus
    from training.pocket.speech.mouth import relative_loudness, speech_mouth
    from training.pocket.speech.visemes import viseme_events
    from wanavatar_lab.metrics import loudness

    recorded: list[Recorded] = []
    for spoken in speak_corpus(minutes, seed, only=only):
        frames = -(-len(spoken.utterance.samples) // (RATE // _FPS))
        samples = np.pad(spoken.utterance.samples, (0, frames * RATE // _FPS - len(spoken.utterance.samples)))
        events = viseme_events(spoken.utterance)
        track = speech_mouth(events, relative_loudness(samples, frames=frames))
        clip = Clip(
            split=spoken.split,
            kind=spoken.kind,
            language=spoken.language,
            voice=spoken.voice.name,
            engine=spoken.voice.engine,
            rate=spoken.delivery.rate,
            pitch=spoken.delivery.pitch,
            text=spoken.text,
            frames=frames,
        )
        dominant = track.weights.argmax(dim=1).numpy()
        heard = loudness(samples, frames=frames)
        recorded.append(Recorded(clip, samples, events, track.mouth.numpy(), dominant, heard))
    out.mkdir(parents=True, exist_ok=True)
    path = out / "speech.safetensors"
    write_corpus(path, recorded, threads=os.cpu_count() or 1)
    return path


def summary(path: Path) -> str:
    """Summarise a corpus: sizes, and the agreement of its mouth tracks with the loudness."""
    from training.pocket.speech.clips import Corpus
    from wanavatar_lab.metrics import best_lag, correlation

    corpus = Corpus(path)
    lines = [f"{path}: {path.stat().st_size / 1e6:.1f} MB"]
    for split in ("train", "held_out"):
        chosen = corpus.indices(split)
        spoken = [i for i in chosen if corpus.clips[i].kind != "silence"]
        pairs = [(corpus.mouth(i)[:, 0], corpus.loudness(i)) for i in spoken]
        agreement = [correlation(mouth, loud) for mouth, loud in pairs]
        lags = [best_lag(mouth, loud) for mouth, loud in pairs]
        lines.append(
            f"{split}: {len(chosen)} clips, {corpus.seconds(split) / 60:.1f} min, "
            f"{len({corpus.clips[i].voice for i in chosen})} voices, "
            f"{len({corpus.clips[i].language for i in chosen})} languages; opening against loudness: "
            f"r median {np.median(agreement):.3f}, lowest tenth {np.quantile(agreement, 0.1):.3f}, "
            f"lag within a frame in {np.mean(np.abs(lags) <= 1):.1%}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/pocket/speech"), help="output folder")
    parser.add_argument("--train-minutes", type=float, default=105.0)
    parser.add_argument("--held-out-minutes", type=float, default=14.0)
    parser.add_argument("--voices", type=int, default=None, help="limit the voices per split, for a quick test")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    began = time.monotonic()
    minutes: dict[Split, float] = {"train": options.train_minutes, "held_out": options.held_out_minutes}
    path = build(options.out, minutes=minutes, seed=options.seed, only=options.voices)
    print(summary(path))
    print(f"built in {time.monotonic() - began:.0f} s")


def _weight(voice: Voice) -> int:
    return _FLITE_WEIGHT if voice.engine == "flite" else 1


def _speak_batch(task: tuple[Split, list[Voice], float, int]) -> list[Spoken]:
    split, cast, share, seed = task
    generator = random.Random(seed)
    found: list[Spoken] = []
    with Synthesiser(cast) as synthesiser:
        for voice in cast:
            left = share * _weight(voice)
            while left > 0:
                spoken = _speak_clip(synthesiser, split, voice, generator)
                left -= spoken.utterance.duration
                found.append(spoken)
    return found


def _speak_clip(synthesiser: Synthesiser, split: Split, voice: Voice, generator: random.Random) -> Spoken:
    shares = [_LANGUAGE_SHARES[language] for language in voice.languages]
    language = generator.choices(voice.languages, shares)[0]
    kind = generator.choices(list(_KINDS[split]), list(_KINDS[split].values()))[0]
    manner = delivery(language, generator)
    if kind == "silence":
        silent = np.zeros(round(_SHORTEST * RATE), dtype=np.float32)
        return Spoken(split, kind, language, voice, manner, "", Utterance(silent, (Phoneme("", 0.0, _SHORTEST),)))
    accent = generator.choice(accents(language))
    texts: list[str] = []
    parts: list[Utterance] = []
    while sum(part.duration for part in parts) < _SHORTEST - 0.8:
        if kind == "drill":
            texts.append(drill(language, generator))
        elif kind == "numbers":
            texts.append(numbers(generator))
        else:
            texts.append(generator.choice(sentences(language, split)))
        parts.append(synthesiser.speak(texts[-1], voice, language, manner, accent=accent))
    pauses = (0.3, 2.0) if generator.random() < 0.15 else (0.05, 0.7)
    utterance = joined(parts, generator, pauses=pauses)
    return Spoken(split, kind, language, voice, manner, " ".join(texts), utterance)


if __name__ == "__main__":
    main()
