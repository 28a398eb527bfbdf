"""Visemes, the mouth shapes of speech, and coarticulation: from timed sounds to a mouth track per frame.

Every sound has a viseme, and every viseme a target for each mouth track. Neighbouring sounds overlap (coarticulation):
lips round before a rounded vowel and stay so after it. As in Cohen and Massaro, "Modeling coarticulation in synthetic
visual speech" (1993), each sound has a dominance that rises before it and decays after it, at different rates; the
mouth is the mean of all targets weighted by dominance. Everything is a function of absolute time, so a track cut into
segments equals the whole one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.pocket.world.pose import MOUTH

FPS = 16
# Time constants in seconds of a sound's dominance: its rise before the sound, its decay after it.
LEAD, LINGER = 0.045, 0.060


@dataclass(frozen=True)
class Viseme:
    """A mouth shape: target per mouth track, and its weight against neighbours for opening and for shape."""

    open: float = 0.0
    wide: float = 0.0
    round: float = 0.0
    teeth: float = 0.0
    low_teeth: float = 0.0
    tongue: float = 0.0
    press: float = 0.0
    tuck: float = 0.0
    hold_open: float = 1.0
    hold_shape: float = 1.0


VISEMES: dict[str, Viseme] = {
    "rest": Viseme(),
    "M": Viseme(press=0.9, hold_open=4.0, hold_shape=1.2),
    "AA": Viseme(open=1.0, wide=0.05, teeth=0.45, tongue=0.15, hold_open=1.3),
    "EH": Viseme(open=0.62, wide=0.5, teeth=0.65, tongue=0.25, hold_open=1.1),
    "IY": Viseme(open=0.26, wide=1.0, teeth=0.8, low_teeth=0.45, tongue=0.2, hold_shape=1.4),
    "OH": Viseme(open=0.68, round=0.62, wide=-0.1, teeth=0.15, hold_shape=1.6),
    "UW": Viseme(open=0.28, round=1.0, wide=-0.3, hold_shape=1.8),
    "AH": Viseme(open=0.46, teeth=0.5, tongue=0.2),
    "F": Viseme(open=0.10, tuck=1.0, teeth=1.0, wide=0.1, hold_open=2.5, hold_shape=1.6),
    "TH": Viseme(open=0.32, teeth=0.55, tongue=1.0, hold_open=1.1),
    "S": Viseme(open=0.15, wide=0.45, teeth=0.8, low_teeth=0.7, hold_open=1.2, hold_shape=0.7),
    "SH": Viseme(open=0.27, round=0.55, wide=-0.1, teeth=0.8, low_teeth=0.75, hold_shape=1.3),
    "R": Viseme(open=0.28, round=0.42, teeth=0.45, tongue=0.4, hold_shape=0.8),
    "K": Viseme(open=0.36, wide=0.15, teeth=0.5, hold_open=0.7, hold_shape=0.5),
}
NAMES = tuple(VISEMES)


@dataclass(frozen=True)
class Sound:
    """A viseme from `start` to `end`, in seconds; `loudness` (0..1) scales how far it opens the mouth."""

    start: float
    end: float
    viseme: str
    loudness: float = 1.0


@dataclass(frozen=True)
class MouthTrack:
    """Mouth track of F frames: `mouth` [F, len(MOUTH)] for `Pose.speaking`, `weights` [F, len(NAMES)] summing to 1."""

    mouth: Tensor
    weights: Tensor


def shape(name: str) -> Tensor:
    """The targets of one viseme in the order of `MOUTH`, [len(MOUTH)].

    Raises:
        KeyError: the viseme is unknown.
    """
    if name not in VISEMES:
        raise KeyError(f"Unknown viseme {name!r}; choose from {', '.join(NAMES)}.")
    return torch.tensor([getattr(VISEMES[name], track) for track in MOUTH])


def mouth_track(sounds: Sequence[Sound], frames: int, *, start: float = 0.0, fps: float = FPS) -> MouthTrack:
    """The mouth track over `frames` frames from `start` seconds on; each frame averages over its duration.

    Between sounds the mouth is at rest. Sounds may come in any order and may touch or overlap.

    Raises:
        KeyError: a sound has an unknown viseme.
        ValueError: a sound ends before it starts.
    """
    for sound in sounds:
        shape(sound.viseme)
        if sound.end < sound.start:
            raise ValueError(f"A sound ends at {sound.end} s, before its start at {sound.start} s; swap the two times.")
    # A frame is the mean of a few samples over its duration, so that a short closure cannot fall between frames.
    moments = 4
    step = 1 / (fps * moments)
    time = start + (torch.arange(frames * moments, dtype=torch.float64) + 0.5) * step
    pull = _dominance(sounds, time)
    voiced = torch.zeros(len(time), len(NAMES), dtype=torch.float64)
    loudness = torch.zeros(len(time), len(NAMES), dtype=torch.float64)
    if sounds:
        index = torch.tensor([NAMES.index(sound.viseme) for sound in sounds])
        voiced.index_add_(1, index, pull)
        loudness.index_add_(1, index, pull * torch.tensor([sound.loudness for sound in sounds], dtype=torch.float64))
    voiced[:, 0] += (1 - voiced.sum(dim=1)).clamp(min=0)
    weights = voiced / voiced.sum(dim=1, keepdim=True)
    targets = torch.stack([shape(name) for name in NAMES]).double()
    opening = targets[:, 0]
    hold_open = torch.tensor([viseme.hold_open for viseme in VISEMES.values()], dtype=torch.float64)
    hold_shape = torch.tensor([viseme.hold_shape for viseme in VISEMES.values()], dtype=torch.float64)
    mouth = (voiced * hold_shape) @ targets / (voiced * hold_shape).sum(dim=1, keepdim=True)
    mouth[:, 0] = (loudness * hold_open) @ opening / (voiced * hold_open).sum(dim=1)

    def framed(values: Tensor) -> Tensor:
        return values.reshape(frames, moments, -1).mean(dim=1).float()

    return MouthTrack(mouth=framed(mouth), weights=framed(weights))


def _dominance(sounds: Sequence[Sound], time: Tensor) -> Tensor:
    """Dominance of each sound at each time, float64 [T, S]: 1 well inside a long sound."""
    starts = torch.tensor([sound.start for sound in sounds], dtype=torch.float64)
    ends = torch.tensor([sound.end for sound in sounds], dtype=torch.float64)
    return _reached(time[:, None] - starts[None, :]) - _reached(time[:, None] - ends[None, :])


def _reached(delay: Tensor) -> Tensor:
    """The integral of a two-sided exponential up to `delay` seconds: a step smoothed by rise and decay."""
    early = LEAD / (LEAD + LINGER) * torch.exp(delay.clamp(max=0) / LEAD)
    late = 1 - LINGER / (LEAD + LINGER) * torch.exp(-delay.clamp(min=0) / LINGER)
    return torch.where(delay < 0, early, late)
