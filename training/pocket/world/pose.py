"""Pose: head, gaze, expression, mouth and camera of a figure, per frame."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

# track name: value at rest
REST: dict[str, float] = {
    "yaw": 0.0,
    "pitch": 0.0,
    "roll": 0.0,
    "x": 0.0,
    "y": 0.0,
    "zoom": 1.0,
    "pan_x": 0.0,
    "pan_y": 0.0,
    "gaze_x": 0.0,
    "gaze_y": 0.0,
    "blink": 0.0,
    "brow": 0.0,
    "smile": 0.0,
    "open": 0.0,
    "wide": 0.0,
    "round": 0.0,
    "teeth": 0.0,
    "low_teeth": 0.0,
    "tongue": 0.0,
    "press": 0.0,
    "tuck": 0.0,
}
MOUTH = ("open", "wide", "round", "teeth", "low_teeth", "tongue", "press", "tuck")


@dataclass(frozen=True)
class Pose:
    """N figures over F frames: `values` float32 [N, F, len(REST)], in the order of `REST`, on the CPU.

    Angles in radians (signs: `rig.py`), `x`, `y`, `pan_x`, `pan_y` in half short sides of the picture, `zoom` a
    factor, the rest 0..1 or -1..1.
    """

    values: Tensor

    @classmethod
    def rest(cls, n: int, frames: int) -> "Pose":
        """All figures still, looking into the camera, mouth shut."""
        return cls(torch.tensor(list(REST.values())).expand(n, frames, len(REST)).clone())

    @classmethod
    def of(cls, n: int, frames: int, values: Mapping[str, Tensor | float]) -> "Pose":
        """The rest pose with `values` set, each a number or a tensor that broadcasts to [N, F].

        Raises:
            KeyError: a track name is not in `REST`.
        """
        pose = cls.rest(n, frames)
        for name, value in values.items():
            pose[name][:] = torch.as_tensor(value)
        return pose

    def __len__(self) -> int:
        return self.values.shape[0]

    @property
    def frames(self) -> int:
        """The number of frames."""
        return self.values.shape[1]

    def __getitem__(self, name: str) -> Tensor:
        """The track `name`, a view [N, F]."""
        if name not in REST:
            raise KeyError(f"A pose has no track {name!r}; choose from {', '.join(REST)}.")
        return self.values[:, :, list(REST).index(name)]

    def having(self, **values: Tensor | float) -> "Pose":
        """The same pose with some tracks replaced, each a number or a tensor that broadcasts to [N, F]."""
        return Pose.of(len(self), self.frames, {**{name: self[name] for name in REST}, **values})

    def speaking(self, mouth: Tensor) -> "Pose":
        """The same pose with a mouth track [N, F, len(MOUTH)] or [F, len(MOUTH)], columns in the order of `MOUTH`."""
        return self.having(**{name: mouth[..., i] for i, name in enumerate(MOUTH)})

    def cut(self, start: int, end: int) -> "Pose":
        """The frames from `start` to `end`."""
        return Pose(self.values[:, start:end])
