"""What the factors of `residency.activations` would be by what was measured."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from wanavatar_lab.bench.watch import Call
from wanavatar_lab.residency import Component, Work
from wanavatar_lab.residency.activations import need


def calibrated(
    work: Work, components: Iterable[Component], calls: Mapping[str, Sequence[Call]], tiled: bool = False
) -> dict[str, dict[str, Any]]:
    """For each component that worked on a GPU: the name of its unit, and what was measured.

    Args:
        work: what was made.
        components: the networks.
        calls: of each network, as `Watch` noted them while all weights lay on the GPU, or came in turns.
        tiled: whether the autoencoder worked in tiles.
    """
    found: dict[str, dict[str, Any]] = {}
    for component in components:
        its = [call for name, some in calls.items() if name.partition(".")[0] == component.name for call in some]
        beside = [call.beside_bytes for call in its if call.beside_bytes is not None]
        if beside:
            needed = need(work, component, tiled)
            found[component.name] = {
                "unit": needed.unit,
                "measured": round(needed.units(max(beside)), 3),
                "beside_bytes": max(beside),
            }
    return found
