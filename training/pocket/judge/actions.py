"""Detect the named actions (nod, blink, zoom in, ...) of a clip from the tracks that the judge reads.

Every action is one of four kinds: a step (a track moves to another value and stays), a beat (it oscillates), lids that
close repeatedly, and lids that stay closed. Step and beat are fitted to a track together, so that a shaking head is not
mistaken for a turned one. A score is a multiple of the threshold, which is about half of the drawn action's amplitude:
1 or more means that the action happened.
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
    """Criterion of an action: `track` steps by `least` (signed) or, with `beat`, oscillates with that amplitude."""

    track: str
    least: float
    beat: tuple[float, float] | None = None  # band in Hz


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
# Lids: closed above this value; maximum idle blinks per second; maximum duration of a blink; and the minimum share of a
# clip for which closed eyes stay closed.
_CLOSED, _OFTEN, _BLINK_SECONDS, _STAY = 0.5, 0.75, 0.75, 0.2
# Idle gaze counters the head's turn by this factor; it is subtracted to detect glances.
_EYES_WITH_HEAD = 0.9
_FINISHED = (0.6, 0.7, 0.85)  # candidate end times of a step, as shares of the clip
_BEATS = np.arange(0.4, 1.65, 0.1)  # Hz


def movements(tracks: Mapping[str, Track], fps: float = FPS) -> dict[str, float]:
    """Score each action of `motion.ACTIONS`: 1 or more means that it happened.

    Args:
        tracks: `Reading.tracks` of a clip of at least two seconds; shorter ones do not show the rate of blinks.

    Raises:
        ValueError: the clip is too short.
    """
    frames = len(tracks["yaw"])
    if frames < 2 * fps:
        raise ValueError(f"A clip of {frames} frames is too short to detect actions; give two seconds or more.")
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
        # the gaze behind closed lids is not visible
        found["glance left"] = found["glance right"] = 0.0
    found.update(_lids(blink, fps))
    return {name: found[name] for name in ACTIONS}


def fitted(track: Track, fps: float, counts: NDArray[np.bool_] | None = None) -> tuple[float, dict[float, float]]:
    """Fit a step and a beat to a track: the step, and the amplitude per frequency (0 except at the best fit).

    Args:
        track: [F].
        counts: [F], mask of the frames to fit; all frames if None or if too few are set.
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
    """Score the actions of the lids: repeated blinks, or eyes that stay closed."""
    closed = np.concatenate([[False], blink > _CLOSED, [False]])
    edges = np.flatnonzero(closed[1:] != closed[:-1])
    starts, ends = edges[::2], edges[1::2]
    lengths = (ends - starts) / fps
    seconds = len(blink) / fps
    often = float((lengths < _BLINK_SECONDS).sum()) / seconds / _OFTEN
    staying = len(ends) > 0 and ends[-1] == len(blink) and starts[-1] > 0
    return {"blink": often, "close eyes": float(lengths[-1]) / seconds / _STAY if staying else 0.0}


def _steadied(track: Track) -> Track:
    """Remove single-frame outliers with a median over three frames."""
    padded = np.pad(track, 1, mode="edge")
    return np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)


def _within(hertz: float, band: tuple[float, float]) -> bool:
    return band[0] <= hertz <= band[1]
