"""Motion: idle movement (sway, glances, blinks), and the actions that captions name.

Everything is a function of absolute time: noise is a sum of sine waves drawn by seed, blinks and glances fall into time
slots. So a clip may start at any time, and a clip cut into segments moves exactly like the whole one.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.pocket.world.pose import Pose
from training.pocket.world.visemes import FPS

# name: amplitude of the sway, and its lowest and highest frequency in Hz.
SWAY: dict[str, tuple[float, float, float]] = {
    "yaw": (0.13, 0.06, 0.40),
    "pitch": (0.060, 0.08, 0.55),
    "roll": (0.060, 0.06, 0.40),
    "x": (0.040, 0.05, 0.35),
    "y": (0.016, 0.15, 0.55),
    "brow": (0.22, 0.06, 0.50),
    "smile": (0.12, 0.04, 0.25),
}
# Maximum constant offset from the frontal pose, drawn once per figure.
LEAN = {"yaw": 0.16, "pitch": 0.06, "roll": 0.07, "x": 0.04}
# Upper limit of `calm` for figures that perform an action, so that the action stands out from idle movement.
QUIET = 0.35
_WAVES, _SLOTS = 4, 64

Tracks = dict[str, Tensor]


@dataclass(frozen=True)
class Moment:
    """Time within an action: `seconds` [N, F] since its start, `share` [N, F] of its duration, `pace` [N, 1] 0..1."""

    seconds: Tensor
    share: Tensor
    pace: Tensor

    @property
    def done(self) -> Tensor:
        """Progress of a movement from one position to another, 0..1, eased at both ends."""
        t = (self.share / (0.85 - 0.25 * self.pace)).clamp(0, 1)
        return t * t * (3 - 2 * t)

    def wave(self, slow: float, fast: float) -> Tensor:
        """A sine wave that starts at 0, of `slow` to `fast` Hz by pace."""
        return torch.sin(2 * math.pi * (slow + (fast - slow) * self.pace) * self.seconds)

    def pulses(self, slow: float, fast: float) -> Tensor:
        """Pulses from 0 to 1 and back, `slow` to `fast` per second by pace."""
        return 0.5 - 0.5 * torch.cos(2 * math.pi * (slow + (fast - slow) * self.pace) * self.seconds)


# What each action adds to a pose; `zoom` is a factor. Left and right are those of the picture.
ACTIONS: dict[str, Callable[[Moment], Tracks]] = {
    "nod": lambda m: {"pitch": 0.32 * m.pulses(0.9, 1.4)},
    "shake head": lambda m: {"yaw": 0.40 * m.wave(0.8, 1.2)},
    "turn left": lambda m: {"yaw": -0.55 * m.done, "gaze_x": -0.4 * m.done},
    "turn right": lambda m: {"yaw": 0.55 * m.done, "gaze_x": 0.4 * m.done},
    "look up": lambda m: {"pitch": -0.32 * m.done, "gaze_y": -0.6 * m.done},
    "look down": lambda m: {"pitch": 0.34 * m.done, "gaze_y": 0.6 * m.done},
    "glance left": lambda m: {"gaze_x": -1.0 * m.done},
    "glance right": lambda m: {"gaze_x": 1.0 * m.done},
    "tilt left": lambda m: {"roll": -0.30 * m.done},
    "tilt right": lambda m: {"roll": 0.30 * m.done},
    "blink": lambda m: {"blink": (m.pulses(0.9, 1.3) * 2.2 - 1.0).clamp(0, 1)},
    "close eyes": lambda m: {"blink": m.done},
    "raise brows": lambda m: {"brow": 1.0 * m.done},
    "smile": lambda m: {"smile": 1.0 * m.done},
    "open mouth": lambda m: {"open": 0.9 * m.done, "teeth": 0.45 * m.done},
    "sway": lambda m: {"x": 0.17 * m.wave(0.5, 0.8), "roll": 0.11 * m.wave(0.5, 0.8)},
    "zoom in": lambda m: {"zoom": 1 + 0.45 * m.done},
    "zoom out": lambda m: {"zoom": 1 - 0.30 * m.done},
    "pan left": lambda m: {"pan_x": -0.42 * m.done},
    "pan right": lambda m: {"pan_x": 0.42 * m.done},
    "pan up": lambda m: {"pan_y": -0.34 * m.done},
    "pan down": lambda m: {"pan_y": 0.34 * m.done},
}
_TOGETHER = (
    ("nod", "shake head", "look up", "look down", "turn left", "turn right", "tilt left", "tilt right", "sway"),
    ("smile", "open mouth"),
    ("blink", "close eyes", "glance left", "glance right"),
    ("raise brows",),
    ("zoom in", "zoom out"),
    ("pan left", "pan right", "pan up", "pan down"),
)
# Limits in radians, approached softly: beyond them the 2.5-D head, drawn from the front, looks wrong.
_FURTHEST = {"yaw": 0.62, "pitch": 0.42, "roll": 0.5}
_CLAMP = ("gaze_x", "gaze_y", "smile", "brow")


def sample_motion(
    n: int,
    frames: int,
    seed: int,
    actions: Sequence[Sequence[str]] | None = None,
    *,
    start: float = 0.0,
    duration: float | None = None,
    fps: float = FPS,
    calm: float = 1.0,
) -> Pose:
    """Sample the motion of `n` figures by `seed` over `frames` frames from `start` seconds on.

    All figures sway, look about and blink. `actions` adds actions to each figure, by the names of `ACTIONS`; they start
    at time 0 and take `duration` seconds (default: the length of the clip). The same seed with a later `start`
    continues the same motion. `calm` below 1 reduces sway and glances.

    Raises:
        KeyError: an action is unknown.
        ValueError: `actions` does not have one entry per figure.
    """
    if actions is not None and len(actions) != n:
        raise ValueError(f"There are {len(actions)} lists of actions for {n} figures; give one for each.")
    generator = torch.Generator().manual_seed(seed)
    time = start + torch.arange(frames, dtype=torch.float64) / fps
    named = torch.tensor([bool(names) for names in actions or [()] * n])[:, None]
    tracks = _idle(n, time, torch.where(named, min(QUIET, calm), calm), generator)
    length = duration if duration is not None else frames / fps
    seconds = time.expand(n, frames)
    moment = Moment(seconds, seconds / length, _drawn(n, 1, generator))
    for name in sorted({name for names in actions or () for name in names}):
        if name not in ACTIONS:
            raise KeyError(f"Unknown action {name!r}; choose from {', '.join(ACTIONS)}.")
        makes = torch.tensor([name in names for names in actions or ()])[:, None]
        for track, values in ACTIONS[name](moment).items():
            if track == "zoom":
                tracks[track] = tracks.get(track, torch.ones(())) * torch.where(makes, values, 1.0)
            else:
                tracks[track] = tracks.get(track, torch.zeros(())) + torch.where(makes, values, 0.0)
    for track in _CLAMP:
        tracks[track] = tracks[track].clamp(-1, 1)
    tracks["blink"] = tracks["blink"].clamp(0, 1)
    for track, most in _FURTHEST.items():
        tracks[track] = most * torch.tanh(tracks[track] / most)
    return Pose.of(n, frames, {name: values.float() for name, values in tracks.items()})


def sample_actions(n: int, seed: int, *, most: int = 2) -> list[tuple[str, ...]]:
    """Sample up to `most` compatible actions for each of `n` figures by `seed`; one figure in ten has none."""
    generator = torch.Generator().manual_seed(seed)
    drawn = []
    for _ in range(n):
        groups = torch.randperm(len(_TOGETHER), generator=generator).tolist()
        share = float(torch.rand((), generator=generator))
        count = 0 if share < 0.1 else 1 + int((share - 0.1) / 0.9 * most * 0.7)
        picks = [int(torch.randint(len(_TOGETHER[group]), (), generator=generator)) for group in groups]
        drawn.append(tuple(_TOGETHER[group][pick] for group, pick in list(zip(groups, picks, strict=True))[:count]))
    return drawn


def _idle(n: int, time: Tensor, calm: Tensor, generator: torch.Generator) -> Tracks:
    tracks: Tracks = {}
    for name, (reach, slowest, fastest) in SWAY.items():
        rate = slowest + (fastest - slowest) * _drawn(n, _WAVES, generator)
        phase = 2 * math.pi * _drawn(n, _WAVES, generator)
        waves = torch.sin(2 * math.pi * rate[:, :, None] * time + phase[:, :, None])
        tracks[name] = reach * calm * waves.mean(dim=1) * 1.6
    for name, reach in LEAN.items():
        tracks[name] = tracks[name] + reach * (2 * _drawn(n, 1, generator) - 1)
    glance_x, glance_y = _glances(n, time, generator), _glances(n, time, generator)
    # The eyes counter the head's turn, so that they stay on the camera.
    tracks["gaze_x"] = (0.45 * glance_x * calm - 1.2 * tracks["yaw"]).clamp(-1, 1)
    tracks["gaze_y"] = 0.30 * glance_y * calm
    tracks["blink"] = _blinks(n, time, generator)
    return tracks


def _glances(n: int, time: Tensor, generator: torch.Generator) -> Tensor:
    """Gaze direction -1..1, [N, F]: fixed for a time slot, then a saccade of a tenth of a second."""
    length = 1.6 + 1.6 * _drawn(n, 1, generator)
    aims = 2 * _drawn(n, _SLOTS, generator) - 1
    # In every other slot the gaze is on the viewer.
    aims[:, ::2] = 0
    place = time / length
    slot = torch.floor(place)
    jump = ((place - slot) * length / 0.11).clamp(0, 1)
    before = aims.gather(1, (slot.long() - 1) % _SLOTS)
    after = aims.gather(1, slot.long() % _SLOTS)
    return before + (after - before) * jump


def _blinks(n: int, time: Tensor, generator: torch.Generator) -> Tensor:
    """Lid closure 0..1, [N, F]: one blink in each time slot, at a random time in it."""
    length = 2.4 + 2.2 * _drawn(n, 1, generator)
    onsets = 0.1 + 0.75 * _drawn(n, _SLOTS, generator)
    place = time / length
    slot = torch.floor(place)
    since = (place - slot - onsets.gather(1, slot.long() % _SLOTS)) * length
    closing, opening = (since / 0.09).clamp(0, 1), 1 - ((since - 0.14) / 0.15).clamp(0, 1)
    return torch.minimum(closing, opening)


def _drawn(n: int, count: int, generator: torch.Generator) -> Tensor:
    """Uniform random numbers in 0..1, float64 [n, count]."""
    return torch.rand(n, count, generator=generator, dtype=torch.float64)
