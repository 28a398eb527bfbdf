"""Test speech: held-out voices, clean, degraded and at other paces."""

import random
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from training.pocket.speech.augment import CONDITIONS, at_speed, degraded
from training.pocket.speech.clips import SAMPLES_PER_FRAME, Corpus
from training.pocket.speech.mouth import relative_loudness, speech_mouth
from training.pocket.speech.sentences import Split
from training.pocket.world.pose import MOUTH

# Conditions that change the pace, with its factor; the pitch changes with it.
PACES = {"fast": 1.25, "slow": 0.8}
# Pause between the concatenated clips of a long speech, in frames.
_PAUSE = 8


@dataclass(frozen=True)
class Spoken:
    """Speech of F video frames.

    Attributes:
        name: name of the corpus clip and the condition.
        voice: the voice.
        sound: float32 [F * 1000] at 16 kHz, as it reaches the pipeline.
        clean: [F * 1000], the clean sound at the same pace.
        mouth: float32 [F, len(MOUTH)], ground-truth mouth track.
    """

    name: str
    voice: str
    sound: NDArray[np.float32]
    clean: NDArray[np.float32]
    mouth: NDArray[np.float32]

    @property
    def frames(self) -> int:
        """The duration in video frames."""
        return len(self.mouth)

    def cut(self, frames: int) -> "Spoken":
        """The first `frames` frames at most."""
        samples = frames * SAMPLES_PER_FRAME
        return replace(self, sound=self.sound[:samples], clean=self.clean[:samples], mouth=self.mouth[:frames])


def spoken_clips(
    corpus: Corpus, count: int, condition: str = "clean", *, seed: int = 0, frames: int = 160, split: Split = "held_out"
) -> list[Spoken]:
    """`count` clips of different sentences, of as many voices as there are, the same ones in every condition.

    Args:
        condition: one of `augment.CONDITIONS` or of `PACES`.
        frames: maximum duration of a clip.

    Raises:
        ValueError: there is no such condition, or fewer than `count` clips.
    """
    if condition not in CONDITIONS and condition not in PACES:
        raise ValueError(f"Unknown condition {condition!r}; choose from {', '.join([*CONDITIONS, *PACES])}.")
    return [
        (_at_pace(corpus, i, condition) if condition in PACES else _degraded(corpus, i, condition, seed)).cut(frames)
        for i in _chosen(corpus, count, split, seed)
    ]


def long_speech(corpus: Corpus, frames: int, *, seed: int = 0, split: Split = "held_out") -> Spoken:
    """Concatenate clips of one voice to a speech of `frames` frames."""
    order = _chosen(corpus, len(_indices(corpus, split)), split, seed)
    voice = corpus.clips[order[0]].voice
    order.sort(key=lambda i: corpus.clips[i].voice != voice)
    sound, mouth, total = [], [], 0
    for i in order:
        rest = np.zeros((_PAUSE, len(MOUTH)), np.float32)
        sound += [corpus.samples(i), np.zeros(_PAUSE * SAMPLES_PER_FRAME, np.float32)]
        mouth += [corpus.mouth(i), rest]
        total += corpus.clips[i].frames + _PAUSE
        if total >= frames:
            break
    joined = np.concatenate(sound)
    return Spoken(f"long{seed}", voice, joined, joined, np.concatenate(mouth)).cut(frames)


def silence(frames: int, *, seed: int = 0) -> Spoken:
    """No speech, only recording noise at -60 dB."""
    noise = np.random.default_rng(seed).standard_normal(frames * SAMPLES_PER_FRAME).astype(np.float32) * 1e-3
    nothing = np.zeros_like(noise)
    return Spoken(f"silence{seed}", "nobody", noise, nothing, np.zeros((frames, len(MOUTH)), np.float32))


def _indices(corpus: Corpus, split: Split) -> list[int]:
    return [i for i in corpus.indices(split) if corpus.clips[i].kind != "silence"]


def _chosen(corpus: Corpus, count: int, split: Split, seed: int) -> list[int]:
    """Indices in the corpus, cycling through the voices."""
    order = _indices(corpus, split)
    if count > len(order):
        raise ValueError(f"The corpus has {len(order)} clips in {split!r}, not {count}; ask for fewer.")
    random.Random(seed).shuffle(order)
    heard: dict[str, int] = {}
    turns = {}
    for i in order:
        turns[i] = heard[corpus.clips[i].voice] = heard.get(corpus.clips[i].voice, 0) + 1
    return sorted(order, key=lambda i: turns[i])[:count]


def _degraded(corpus: Corpus, index: int, condition: str, seed: int) -> Spoken:
    clean = corpus.samples(index)
    heard = degraded(torch.from_numpy(clean)[None], condition, seed=seed * 100_003 + index)[0].numpy()
    return Spoken(f"{index}-{condition}", corpus.clips[index].voice, heard, clean, corpus.mouth(index))


def _at_pace(corpus: Corpus, index: int, condition: str) -> Spoken:
    factor = PACES[condition]
    sound = at_speed(torch.from_numpy(corpus.samples(index)), factor).numpy()
    frames = len(sound) // SAMPLES_PER_FRAME
    sound = sound[: frames * SAMPLES_PER_FRAME]
    events = [replace(event, start=event.start / factor, end=event.end / factor) for event in corpus.events(index)]
    mouth = speech_mouth(events, relative_loudness(sound, frames=frames)).mouth.numpy()
    return Spoken(f"{index}-{condition}", corpus.clips[index].voice, sound, sound, mouth)
