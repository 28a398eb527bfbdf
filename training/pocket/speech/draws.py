"""Seeded random draws for a batch, independent of other random state."""

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Draws:
    """Random numbers for `batch` clips on `device`, from `generator` (which may be on the CPU for any device).

    A draw of one number per clip is [batch]; noise is drawn on the device from a seed taken from the generator, since
    copying it there is slower than drawing it. Equal seeds give equal results on the same kind of device.
    """

    batch: int
    device: torch.device
    generator: torch.Generator
    _noise: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        seed = torch.randint(2**62, (1,), generator=self.generator, device=self.generator.device)
        self._noise = torch.Generator(device=self.device).manual_seed(int(seed))

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Numbers between `low` and `high`, [batch, *shape]."""
        drawn = torch.rand(self.batch, *shape, generator=self.generator, device=self.generator.device)
        return (low + (high - low) * drawn).to(self.device)

    def chance(self, share: float) -> Tensor:
        """True for about `share` of the clips, [batch]."""
        return self.uniform(0, 1) < share

    def decibels(self, low: float, high: float, *shape: int) -> Tensor:
        """Amplitude factors uniform in dB between `low` and `high`, [batch, *shape]."""
        return torch.pow(10.0, self.uniform(low, high, *shape) / 20)

    def one_of(self, count: int) -> Tensor:
        """A random integer 0..count-1 per clip, [batch]."""
        return self.uniform(0, count).long().clamp(max=count - 1)

    def noise(self, *shape: int) -> Tensor:
        """White Gaussian noise of unit variance, [batch, *shape]."""
        return torch.randn(self.batch, *shape, generator=self._noise, device=self.device)

    def wander(self, length: int, knots: int) -> Tensor:
        """A smooth random curve of about unit variance through `knots` random values, [batch, length]."""
        drawn = torch.randn(self.batch, 1, max(2, knots), generator=self.generator, device=self.generator.device)
        curve = torch.nn.functional.interpolate(drawn.to(self.device), size=length, mode="linear", align_corners=True)
        return curve[:, 0]
