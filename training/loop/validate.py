"""Validation: the errors of held-out clips at fixed noise levels with fixed noise, so that steps can be compared."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from training.data.samples import Samples
from training.loop.step import Draws, train_step
from training.model.flow import shifted
from wanavatar_lab.s2v import WanS2VTransformer3DModel

LEVELS = 8  # of noise; enough for a curve over sigma, and each costs a forward pass per sample
_SEED = 20_220  # of the noise, far from the seeds of any training
PARTS = ("error", "face", "lip", "background")


@torch.no_grad()
def validate(
    network: WanS2VTransformer3DModel, samples: Samples, flow_shift: float, device: torch.device
) -> dict[str, float]:
    """Predict every sample at every noise level.

    Args:
        network: on `device`, with its weights as they are now.
        samples: held-out ones.
        flow_shift: of the noise levels, as in training.

    Returns:
        Squared errors without loss weights, as means over the samples: "lip" and so on over all noise levels,
        "lip/0.42" at one. Parts that no sample has are absent.
    """
    # the middles of equal shares of the levels that training draws
    sigmas = shifted((torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS, flow_shift).tolist()
    values: dict[str, list[float]] = {}
    training = network.training
    network.eval()
    for row in range(len(samples)):
        batch = samples.batch([row], device)
        for number, sigma in enumerate(sigmas):
            generator = torch.Generator().manual_seed(_SEED + row * LEVELS + number)
            noise = torch.randn(batch["target"].shape, generator=generator).to(device)
            kept = torch.zeros(1, dtype=torch.bool, device=device)
            level, branch = torch.tensor([sigma], device=device), torch.zeros(1, dtype=torch.long, device=device)
            losses = train_step(network, batch, Draws(level, noise, branch, kept, kept, kept, kept))
            for part in PARTS:
                value = float(getattr(losses, part))
                if value == value:  # NaN: a sample without a face has no error of the lips
                    values.setdefault(part, []).append(value)
                    values.setdefault(f"{part}/{sigma:.2f}", []).append(value)
    network.train(training)
    return {name: sum(each) / len(each) for name, each in values.items()}


@contextmanager
def without_training(network: WanS2VTransformer3DModel, origins: Mapping[str, Tensor]) -> Iterator[None]:
    """Within it, the network is the base: as it was before any training.

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
