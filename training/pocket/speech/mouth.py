"""The mouth track of speech, per frame: shape from visemes, opening from the loudness of the sound.

With `world.visemes` alone the mouth opens as far as each vowel's target and blurs loudness over neighbouring sounds; it
correlates with the speech's loudness at r = 0.7 only. People open the mouth wider when they are louder, and viewers
notice lips against loudness first, so the opening follows the loudness frame by frame, while lips still meet for m, b
and p and narrow for f, s and u: r = 0.9 over nine languages (`tests/pocket/test_speech.py` requires 0.8).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from training.pocket.world.pose import MOUTH
from training.pocket.world.visemes import FPS, NAMES, MouthTrack, Sound, mouth_track
from wanavatar_lab.metrics import loudness

_OPEN, _CLOSED = MOUTH.index("open"), NAMES.index("M")
# Exponents of the opening: of the loudness; of the visemes' opening, below 1 to bring closed vowels closer to open;
# and of the share of a frame in which the lips are not closed.
_LOUDNESS, _VISEME, _MEETING = 0.7, 0.5, 0.4
# The loudest tenth of speech frames opens fully; frames below this share of the loudest are pauses.
_FULL, _PAUSE = 0.9, 0.05


def relative_loudness(samples: NDArray[np.float32], *, frames: int | None = None) -> NDArray[np.float32]:
    """Loudness of clean speech per frame, [frames], relative to the clip: 1 is its loud speech, 0 silence."""
    level = loudness(samples, frames=frames, fps=FPS)
    heard = level[level > _PAUSE * level.max(initial=0.0)]
    full = float(np.quantile(heard, _FULL)) if len(heard) else 1.0
    return np.clip(level / full, 0.0, 1.0).astype(np.float32)


def speech_mouth(events: Sequence[Sound], relative: NDArray[np.float32], *, first_frame: int = 0) -> MouthTrack:
    """The mouth track over the frames of `relative`; see `world.visemes.MouthTrack`.

    Args:
        events: `visemes.viseme_events`; their times count from frame 0.
        relative: `relative_loudness` [F] of the frames from `first_frame` on.
    """
    shapes = mouth_track([replace(event, loudness=1.0) for event in events], len(relative), start=first_frame / FPS)
    asked, meeting = shapes.mouth[:, _OPEN], shapes.weights[:, _CLOSED]
    gain = torch.from_numpy(relative).clamp(0, 1) ** _LOUDNESS
    mouth = shapes.mouth.clone()
    mouth[:, _OPEN] = gain * asked.clamp(0, 1) ** _VISEME * (1 - meeting).clamp(0, 1) ** _MEETING
    return MouthTrack(mouth=mouth, weights=shapes.weights)
