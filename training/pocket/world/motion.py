"""Motion: breathing life into a pose, and the movements that captions name.

All of it is a function of absolute time: noise is a sum of sine waves drawn by seed, blinks and glances fall into
slots of time. So a clip may start anywhere, and one cut into segments moves as if it had not been cut.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.pocket.world.pose import Pose
from training.pocket.world.visemes import FPS

# name: how far it sways, and its slowest and fastest part in Hz.
SWAY: dict[str, tuple[float, float, float]] = {
    "yaw": (0.13, 0.06, 0.40),
    "pitch": (0.060, 0.08, 0.55),
    "roll": (0.060, 0.06, 0.40),
    "x": (0.040, 0.05, 0.35),
    "y": (0.016, 0.15, 0.55),
    "brow": (0.22, 0.06, 0.50),
    "smile": (0.12, 0.04, 0.25),
}
# How far the figure may be from a straight pose all the while.
LEAN = {"yaw": 0.16, "pitch": 0.06, "roll": 0.07, "x": 0.04}
# With a named movement the rest is quieter, so that the movement is what is seen.
QUIET = 0.35
_WAVES, _SLOTS = 4, 64

Tracks = dict[str, Tensor]


@dataclass(frozen=True)
class Moment:
    """The time of a movement: `seconds` [N, F] since it began, `share` [N, F] of its duration, `pace` [N, 1] 0..1."""

    seconds: Tensor
    share: Tensor
    pace: Tensor

    @property
    def done(self) -> Tensor:
        """How far a movement that goes from one place to another has come, 0..1, smooth at both ends."""
        t = (self.share / (0.85 - 0.25 * self.pace)).clamp(0, 1)
        return t * t * (3 - 2 * t)

    def wave(self, slow: float, fast: float) -> Tensor:
        """A sine that starts at 0, at `slow` to `fast` Hz."""
        return torch.sin(2 * math.pi * (slow + (fast - slow) * self.pace) * self.seconds)

    def pulses(self, slow: float, fast: float) -> Tensor:
        """From 0 to 1 and back, `slow` to `fast` times a second."""
        return 0.5 - 0.5 * torch.cos(2 * math.pi * (slow + (fast - slow) * self.pace) * self.seconds)


# What every named movement adds to a pose; `zoom` is a factor. Left and right are the picture's.
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
# Beyond these angles the drawing of a head seen from the front no longer holds; they are approached softly.
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
    """Move `n` figures by `seed` over `frames` frames from `start` seconds on.

    Everyone sways, looks about and blinks. `actions` gives each figure the movements that it makes besides, by the
    names of `ACTIONS`; they begin at time 0 and take `duration` seconds (the clip's length if not said). The same
    seed with a later `start` continues the same motion. Below 1, `calm` makes everyone sway and look about less.

    Raises:
        KeyError: there is no such movement.
        ValueError: there is not one entry of `actions` for each figure.
    """
    if actions is not None and len(actions) != n:
        raise ValueError(f"There are {len(actions)} lists of movements for {n} figures; give one for each.")
    generator = torch.Generator().manual_seed(seed)
    time = start + torch.arange(frames, dtype=torch.float64) / fps
    named = torch.tensor([bool(names) for names in actions or [()] * n])[:, None]
    tracks = _idle(n, time, torch.where(named, min(QUIET, calm), calm), generator)
    length = duration if duration is not None else frames / fps
    seconds = time.expand(n, frames)
    moment = Moment(seconds, seconds / length, _drawn(n, 1, generator))
    for name in sorted({name for names in actions or () for name in names}):
        if name not in ACTIONS:
            raise KeyError(f"There is no movement {name!r}; there are {', '.join(ACTIONS)}.")
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
    """Draw for each of `n` figures by `seed` up to `most` movements that go together, in one case of ten none."""
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
    # The eyes hold on to the camera when the head turns away.
    tracks["gaze_x"] = (0.45 * glance_x * calm - 1.2 * tracks["yaw"]).clamp(-1, 1)
    tracks["gaze_y"] = 0.30 * glance_y * calm
    tracks["blink"] = _blinks(n, time, generator)
    return tracks


def _glances(n: int, time: Tensor, generator: torch.Generator) -> Tensor:
    """Where the eyes go, -1..1: they rest for a slot of time, then jump within a tenth of a second, [N, F]."""
    length = 1.6 + 1.6 * _drawn(n, 1, generator)
    aims = 2 * _drawn(n, _SLOTS, generator) - 1
    # Every other slot looks at the viewer.
    aims[:, ::2] = 0
    place = time / length
    slot = torch.floor(place)
    jump = ((place - slot) * length / 0.11).clamp(0, 1)
    before = aims.gather(1, (slot.long() - 1) % _SLOTS)
    after = aims.gather(1, slot.long() % _SLOTS)
    return before + (after - before) * jump


def _blinks(n: int, time: Tensor, generator: torch.Generator) -> Tensor:
    """One blink in each slot of time, at any moment of it, 0..1, [N, F]."""
    length = 2.4 + 2.2 * _drawn(n, 1, generator)
    onsets = 0.1 + 0.75 * _drawn(n, _SLOTS, generator)
    place = time / length
    slot = torch.floor(place)
    since = (place - slot - onsets.gather(1, slot.long() % _SLOTS)) * length
    closing, opening = (since / 0.09).clamp(0, 1), 1 - ((since - 0.14) / 0.15).clamp(0, 1)
    return torch.minimum(closing, opening)


def _drawn(n: int, count: int, generator: torch.Generator) -> Tensor:
    """Random numbers in 0..1, float64 [n, count]."""
    return torch.rand(n, count, generator=generator, dtype=torch.float64)
