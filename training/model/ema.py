"""The average of weights over the steps of a training (EMA), which is steadier than where they last stood."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """A moving average of named parameters, in float32 beside them.

    Args:
        parameters: what is trained; the average begins as what they are.
        decay: how much of the average stays in a step; it is reached gradually, so that the first steps do not last.

    Attributes:
        values: by name.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters, self._decay = dict(parameters), decay
        self.values = {name: parameter.detach().float().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the parameters after step number `step`, from 1."""
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        now = [self._parameters[name].detach().float() for name in self.values]
        torch._foreach_lerp_(list(self.values.values()), now, weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it, the parameters are their averages."""
        before = {name: parameter.data for name, parameter in self._parameters.items()}
        for name, parameter in self._parameters.items():
            parameter.data = self.values[name].to(parameter.dtype)
        try:
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.data = before[name]

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Put averages back that were saved.

        Raises:
            KeyError: one is missing.
        """
        for name, value in self.values.items():
            value.copy_(values[name])
