"""The choice for this machine, with no more GPUs looked at than it takes: to look at one costs memory on it."""

from collections.abc import Collection, Mapping, Sequence

from wanavatar_lab.errors import RequestError
from wanavatar_lab.residency.choose import Choice, choose
from wanavatar_lab.residency.component import Component
from wanavatar_lab.residency.machine import Machine, this_machine


def choose_here(
    components: Sequence[Component],
    activations: Mapping[str, int],
    device: str,
    host_free: int | None,
    offload: str = "auto",
    tiled: Mapping[str, int] | None = None,
    without: Collection[str] = (),
) -> Choice:
    """Choose where components lie on this machine, as `choose` does.

    Args:
        components: of the stage.
        activations: bytes beside the weights while each works, by its name.
        device: where they compute: cpu, cuda or cuda:<n>.
        host_free: main memory that they may take, in bytes; None if they are loaded.
        offload: auto, or a mode that is wanted.
        tiled: as `activations`, with the autoencoder in tiles; None where it has to work whole.
        without: modes that auto does not take.

    Raises:
        RequestError: the mode that is wanted does not fit.
        LabError: no mode fits, or main memory is too small to load the weights.
    """
    alone = Machine(this_machine(device, most=1).gpus, host_free)
    if offload != "auto":
        return choose(components, activations, alone, offload, tiled)
    try:
        return choose(components, activations, alone, "none", tiled)
    except RequestError:
        two = Machine(this_machine(device, most=2).gpus, host_free)
        return choose(components, activations, two, tiled=tiled, without=without)
