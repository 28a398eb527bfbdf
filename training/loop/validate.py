"""How well held-out clips are predicted, with and without the LoRA: the same noise and noise levels each time."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from training.data.samples import Samples
from training.loop.step import Draws, train_step
from training.model.flow import shifted
from wanavatar_lab.s2v import WanS2VTransformer3DModel

LEVELS = 8
_SEED = 20_220  # of the noise, apart from that of any training
PARTS = ("error", "face", "lip", "background")


@dataclass(frozen=True)
class Validation:
    """Plain squared errors: means over samples, "lip" and so on of all noise levels, and "lip/0.42" of one."""

    errors: dict[str, float]

    def change(self, base: "Validation", part: str) -> float:
        """By how much of the base's an error differs; -0.2 is 20 % less."""
        return self.errors[part] / base.errors[part] - 1


def levels(shift: float) -> list[float]:
    """Noise levels in the middle of as many equal shares of those that training draws."""
    middles = (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS
    found: list[float] = shifted(middles, shift).tolist()
    return found


@torch.no_grad()
def validate(network: WanS2VTransformer3DModel, samples: Samples, shift: float, device: torch.device) -> Validation:
    """Predict every sample at every level.

    Args:
        network: as it is now; see `without_training`.
        samples: those that are held out.
        shift: of the noise levels.
        device: of the network.
    """
    training, sums, counts = network.training, dict[str, float](), dict[str, int]()
    network.eval()
    for row in range(len(samples)):
        batch = samples.batch([row], device)
        for number, sigma in enumerate(levels(shift)):
            generator = torch.Generator().manual_seed(_SEED + row * LEVELS + number)
            noise = torch.randn(batch["target"].shape, generator=generator).to(device)
            nothing = torch.zeros(1, dtype=torch.bool, device=device)
            level, branch = torch.tensor([sigma], device=device), torch.zeros(1, dtype=torch.long, device=device)
            losses = train_step(network, batch, Draws(level, noise, branch, nothing, nothing, nothing, nothing))
            for part in PARTS:
                value = float(getattr(losses, part))
                for name in (part, f"{part}/{sigma:.2f}"):
                    if value == value:  # a sample without a face has no error of lips
                        sums[name] = sums.get(name, 0.0) + value
                        counts[name] = counts.get(name, 0) + 1
    network.train(training)
    return Validation({name: total / counts[name] for name, total in sums.items()})


@contextmanager
def without_training(network: WanS2VTransformer3DModel, origins: Mapping[str, Tensor]) -> Iterator[None]:
    """The network as it was before any training.

    Args:
        origins: weights that are trained in full, as they were, by name.
    """
    parameters = {name: parameter for name, parameter in network.named_parameters() if name in origins}
    trained = {name: parameter.data for name, parameter in parameters.items()}
    network.disable_adapters()
    for name, parameter in parameters.items():
        parameter.data = origins[name].to(parameter)
    try:
        yield
    finally:
        for name, parameter in parameters.items():
            parameter.data = trained[name]
        network.enable_adapters()
