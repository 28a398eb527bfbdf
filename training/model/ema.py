"""The exponential moving average (EMA) of the trained weights, by diffusers, in float32 beside them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from diffusers.training_utils import EMAModel
from torch import nn


def new_ema(parameters: Sequence[nn.Parameter], decay: float) -> EMAModel:
    """An average that starts as the parameters are now.

    Its decay rises as (1 + n) / (10 + n) over its first steps n = 1, 2, …, so that the untrained weights fade from it
    however short the run is. diffusers begins so one step later, after a step that copies; hence the -1.
    """
    return EMAModel(parameters, decay=decay, update_after_step=-1)


@contextmanager
def averaged(ema: EMAModel | None, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within it, the parameters have their averaged values; without an EMA they stay as they are."""
    if ema is None:
        yield
        return
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)
