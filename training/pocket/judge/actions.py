"""Which of the movements that captions name happened in a clip, from the tracks that the judge reads.

Every movement is one of four kinds: a step (a track goes from one place to another and stays), a beat (it swings),
lids that close again and again, and lids that stay closed. A step and a beat are fitted to a track together, so that a
swinging head is not taken for a turned one. What is found is given as a multiple of what is asked, about half of what
the drawn movement does: 1 or more means that it happened.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.pocket.world.motion import ACTIONS
from wanavatar_lab.metrics import FPS

Track = NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """What makes a movement: `track` takes a step of `least` (its sign says whither) or swings by `least`."""

    track: str
    least: float
    beat: tuple[float, float] | None = None  # Hz


ASKED: dict[str, Asked] = {
    "nod": Asked("pitch", 0.07, beat=(0.75, 1.6)),
    "shake head": Asked("yaw", 0.15, beat=(0.7, 1.4)),
    "turn left": Asked("yaw", -0.24),
    "turn right": Asked("yaw", 0.24),
    "look up": Asked("pitch", -0.14),
    "look down": Asked("pitch", 0.14),
    "glance left": Asked("glance", -0.58),
    "glance right": Asked("glance", 0.58),
    "tilt left": Asked("roll", -0.15),
    "tilt right": Asked("roll", 0.15),
    "raise brows": Asked("brow", 0.55),
    "smile": Asked("smile", 0.26),
    "open mouth": Asked("opening", 0.3),
    "sway": Asked("along", 0.05, beat=(0.4, 0.95)),
    "zoom in": Asked("zoom", 0.17),
    "zoom out": Asked("zoom", -0.17),
    "pan left": Asked("along", 0.2),
    "pan right": Asked("along", -0.2),
    "pan up": Asked("down", 0.16),
    "pan down": Asked("down", -0.16),
}
# Lids: closed above this; so many times a second they close on their own at most; so long a blink lasts at most, and so
# much of a clip closed eyes stay closed at least.
_CLOSED, _OFTEN, _BLINK_SECONDS, _STAY = 0.5, 0.75, 0.75, 0.2
# A head that turns takes the eyes along by so much of its angle.
_EYES_WITH_HEAD = 0.9
_FINISHED = (0.6, 0.7, 0.85)  # of the clip, when a step has come to its end
_BEATS = np.arange(0.4, 1.65, 0.1)  # Hz


def movements(tracks: Mapping[str, Track], fps: float = FPS) -> dict[str, float]:
    """How far each movement of `motion.ACTIONS` happened: 1 or more means that it did.

    Args:
        tracks: `Reading.tracks` of a clip of at least two seconds; shorter ones do not show how often lids close.

    Raises:
        ValueError: the clip is too short.
    """
    frames = len(tracks["yaw"])
    if frames < 2 * fps:
        raise ValueError(f"A clip of {frames} frames is too short to tell its movements; give two seconds or more.")
    blink = _steadied(tracks["blink"])
    open_eyes = blink < 0.35
    size = np.exp(tracks["zoom"])
    seen = {
        **{name: _steadied(tracks[name]) for name in ("yaw", "pitch", "roll", "brow", "smile", "opening", "zoom")},
        "along": _steadied(tracks["place_x"] / size),
        "down": _steadied(tracks["place_y"] / size),
        "glance": _steadied(tracks["gaze_x"] - _EYES_WITH_HEAD * tracks["yaw"]),
    }
    fits = {name: fitted(track, fps, open_eyes if name == "glance" else None) for name, track in seen.items()}
    found = {}
    for name, asked in ASKED.items():
        step, beats = fits[asked.track]
        if asked.beat is None:
            found[name] = step / asked.least
        else:
            found[name] = max(amount for hertz, amount in beats.items() if _within(hertz, asked.beat)) / asked.least
    if open_eyes.mean() < 0.5:
        # who has closed the eyes may look anywhere behind the lids
        found["glance left"] = found["glance right"] = 0.0
    found.update(_lids(blink, fps))
    return {name: found[name] for name in ACTIONS}


def fitted(track: Track, fps: float, counts: NDArray[np.bool_] | None = None) -> tuple[float, dict[float, float]]:
    """The step in a track and how much it beats at each frequency (amplitude; 0 but at the one that fits best).

    Args:
        track: [F].
        counts: [F], the frames that count; None, or too few of them, for all.
    """
    count = len(track)
    time = np.arange(count) / fps
    kept = np.ones(count, dtype=np.bool_) if counts is None or counts.sum() < count / 4 else counts
    best = (np.inf, 0.0, 0.0, 0.0)
    for finished in _FINISHED:
        share = np.clip(np.arange(count) / (finished * count), 0, 1)
        done = share * share * (3 - 2 * share)
        for hertz in _BEATS:
            angle = 2 * np.pi * hertz * time
            basis = np.stack([np.ones(count), done, np.sin(angle), np.cos(angle)], axis=1)[kept]
            weights, *_ = np.linalg.lstsq(basis, track[kept], rcond=None)
            error = float(np.square(basis @ weights - track[kept]).sum())
            best = min(best, (error, float(weights[1]), float(hertz), float(np.hypot(weights[2], weights[3]))))
    return best[1], {float(hertz): best[3] if hertz == best[2] else 0.0 for hertz in _BEATS}


def _lids(blink: Track, fps: float) -> dict[str, float]:
    """What the lids do: they blink often, or close and stay closed."""
    closed = np.concatenate([[False], blink > _CLOSED, [False]])
    edges = np.flatnonzero(closed[1:] != closed[:-1])
    starts, ends = edges[::2], edges[1::2]
    lengths = (ends - starts) / fps
    seconds = len(blink) / fps
    often = float((lengths < _BLINK_SECONDS).sum()) / seconds / _OFTEN
    staying = len(ends) > 0 and ends[-1] == len(blink) and starts[-1] > 0
    return {"blink": often, "close eyes": float(lengths[-1]) / seconds / _STAY if staying else 0.0}


def _steadied(track: Track) -> Track:
    """Without what lasts a single frame: the median of three frames."""
    padded = np.pad(track, 1, mode="edge")
    return np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)


def _within(hertz: float, band: tuple[float, float]) -> bool:
    return band[0] <= hertz <= band[1]
