"""Cut long recordings at silences and at hard cuts, into clips of 3 to 10 s, without long pauses.

Times are counted in steps of 1/16 s, the frames of S2V, so that a recording at 16 fps is cut between its frames.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from training.prepare.clip_folder import FPS, RATE
from wanavatar_lab.metrics import decibels, loudness

# 10 s are two segments of 80 frames, of which the second continues from 73 frames as in inference
SHORTEST, LONGEST = 3 * FPS, 10 * FPS
# a pause of more than a second is left out, but for a quarter of a second at both ends
PAUSE, REST = FPS, FPS // 4
# the silence threshold in dB: this far below loud speech, at most and at least, and this far above the quietest steps
DEEP, SHALLOW, NOISE = 30.0, 12.0, 6.0
INAUDIBLE = -50.0  # dBFS; if nothing is louder, nobody speaks
FURTHER = 1.0  # cost of one more clip, in dB of loudness at a cut: fewer, longer clips hold more motion


@dataclass(frozen=True)
class Span:
    """A part of a recording, in steps of 1/16 s from `start` to before `end`.

    `through_speech` says whether it begins or ends where somebody speaks, since no silence was near or the scene
    changes there.
    """

    start: int
    end: int
    through_speech: bool = False

    @property
    def frames(self) -> int:
        """Its length in steps."""
        return self.end - self.start

    @property
    def seconds(self) -> float:
        """Its start in seconds."""
        return self.start / FPS


@dataclass(frozen=True)
class Cuts:
    """The clips of a recording, and passages that are shorter than 3 s even with the silence around them.

    `scenes` are the parts between hard cuts, each clip within one.
    """

    spans: tuple[Span, ...]
    too_short: tuple[Span, ...] = ()
    scenes: tuple[Span, ...] = ()

    def scene_of(self, span: Span) -> Span:
        """The scene that a clip is in."""
        return next(scene for scene in self.scenes if scene.start <= span.start < scene.end)


def cut_at_silences(sound: ArrayLike, changes: Sequence[int] = ()) -> Cuts:
    """Cut a recording.

    Args:
        sound: float [T] at 16 kHz.
        changes: the steps at which the scene changes; no clip is across one.

    Returns:
        Clips of 48 to 160 steps in order; none if nobody speaks.
    """
    samples = np.asarray(sound, dtype=np.float64)
    steps = len(samples) * FPS // RATE
    level = decibels(loudness(samples, frames=steps)) if steps else np.zeros(0)
    if not steps or level.max() < INAUDIBLE:
        return Cuts(())
    silence = silence_level(level)
    spans, short = [], []
    edges = [0, *(step for step in sorted(set(changes)) if 0 < step < steps), steps]
    scenes = tuple(Span(start, end) for start, end in pairwise(edges))
    for scene in scenes:
        for passage in _passages(level >= silence, scene):
            if passage.frames < SHORTEST:
                short.append(passage)
            else:
                spans += _divided(passage, scene, level, silence)
    return Cuts(tuple(spans), tuple(short), scenes)


def silence_level(level: NDArray[np.float64]) -> float:
    """The loudness in dB below which a step is silent, from that of the speech and of the room.

    Args:
        level: dB of every step.
    """
    loud, quiet = np.quantile(level, [0.95, 0.1])
    return float(min(max(loud - DEEP, quiet + NOISE), loud - SHALLOW))


def _passages(said: NDArray[np.bool_], scene: Span) -> Sequence[Span]:
    """Speech in a scene without long pauses, with a rest around it; short passages get as much pause as they need."""
    places = scene.start + np.flatnonzero(said[scene.start : scene.end])
    if not len(places):
        return []
    breaks = np.flatnonzero(np.diff(places) > PAUSE)
    starts, ends = places[np.r_[0, breaks + 1]].tolist(), (places[np.r_[breaks, len(places) - 1]] + 1).tolist()
    # each may extend to the middle of the pauses around it, so that nothing is in two clips
    middles = ((end + start) // 2 for end, start in zip(ends[:-1], starts[1:], strict=True))
    edges = [scene.start, *middles, scene.end]
    passages = []
    for number, (start, end) in enumerate(zip(starts, ends, strict=True)):
        first, last = edges[number], edges[number + 1]
        reach = max(REST, -(-(SHORTEST - (end - start)) // 2))
        start, end = max(first, start - reach), min(last, end + reach)
        # if one side is too short, the other makes up for it
        start = max(first, min(start, end - SHORTEST))
        end = min(last, max(end, start + SHORTEST))
        passages.append(Span(start, end))
    return passages


def _divided(passage: Span, scene: Span, level: NDArray[np.float64], silence: float) -> list[Span]:
    """A passage in pieces of the right length, cut where it is quietest.

    Dynamic programming over the ends of pieces: each piece costs `FURTHER` and the loudness at its end above silence.
    """
    count = passage.frames
    # a cut is between two steps, and both should be quiet
    inside = level[passage.start : passage.end]
    loud = np.zeros(count + 1)
    loud[1:-1] = np.maximum(np.maximum(inside[1:], inside[:-1]) - silence, 0)
    cost = np.full(count + 1, np.inf)
    cost[0], before = 0.0, np.zeros(count + 1, dtype=np.int64)
    for end in range(SHORTEST, count + 1):
        start = max(0, end - LONGEST)
        from_ = cost[start : end - SHORTEST + 1]
        best = int(np.argmin(from_))
        cost[end] = from_[best] + FURTHER + loud[end]
        before[end] = start + best
    ends = [count]
    while ends[-1]:
        ends.append(int(before[ends[-1]]))
    ends.reverse()
    # the scene may change while somebody speaks; that the recording itself begins or ends so is no fault of the cuts
    loud[0] = passage.start == scene.start > 0 and inside[0] >= silence
    loud[-1] = passage.end == scene.end < len(level) and inside[-1] >= silence
    return [
        Span(passage.start + start, passage.start + end, bool(loud[start] or loud[end]))
        for start, end in pairwise(ends)
    ]
