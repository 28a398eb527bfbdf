"""The mouth of speech, frame by frame: visemes for its shape, the sound's own loudness for how far it opens.

`world.visemes` alone opens as far as each vowel asks and blurs loudness over the neighbouring sounds; such a mouth
agrees with the loudness of the speech only at r = 0.7. People open wider when they are louder, and a viewer checks
lips against loudness first, so the opening follows it frame by frame, while lips still meet for m, b and p and narrow
for f, s and u: measured over nine languages, r = 0.9 (`tests/pocket/test_speech.py` holds it above 0.8).
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
# The opening goes with loudness to this power; the differences between visemes count with the other one, which
# brings closed vowels nearer to open ones; and the share of a frame in which lips meet takes from it once more.
_LOUDNESS, _VISEME, _MEETING = 0.7, 0.5, 0.4
# Full opening is for the loudest tenth of the frames of speech; frames below this share of the loudest are pauses.
_FULL, _PAUSE = 0.9, 0.05


def relative_loudness(samples: NDArray[np.float32], *, frames: int | None = None) -> NDArray[np.float32]:
    """Loudness of clean speech per frame, [frames], on the scale of the clip: 1 is its loud speech, 0 silence."""
    level = loudness(samples, frames=frames, fps=FPS)
    heard = level[level > _PAUSE * level.max(initial=0.0)]
    full = float(np.quantile(heard, _FULL)) if len(heard) else 1.0
    return np.clip(level / full, 0.0, 1.0).astype(np.float32)


def speech_mouth(events: Sequence[Sound], relative: NDArray[np.float32], *, first_frame: int = 0) -> MouthTrack:
    """The mouth over the frames of `relative`, which is `relative_loudness` of them; see `world.visemes.MouthTrack`.

    Args:
        events: `visemes.viseme_events`; their times are counted from frame 0.
        relative: [F], from `first_frame` on.
    """
    shapes = mouth_track([replace(event, loudness=1.0) for event in events], len(relative), start=first_frame / FPS)
    asked, meeting = shapes.mouth[:, _OPEN], shapes.weights[:, _CLOSED]
    gain = torch.from_numpy(relative).clamp(0, 1) ** _LOUDNESS
    mouth = shapes.mouth.clone()
    mouth[:, _OPEN] = gain * asked.clamp(0, 1) ** _VISEME * (1 - meeting).clamp(0, 1) ** _MEETING
    return MouthTrack(mouth=mouth, weights=shapes.weights)
