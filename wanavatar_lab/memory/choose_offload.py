"""The choice for this machine, with no more GPUs looked at than it takes: to look at one costs memory on it.

Who is on the GPU: chosen from what there is to hold and what is free. Pure functions; nothing is moved here.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from wanavatar_lab.errors import LabError, RequestError
from wanavatar_lab.memory.components import Component
from wanavatar_lab.memory.machine import Gpu, Machine, this_machine
from wanavatar_lab.weights import amount

FORCED = ("none", "model", "fp8", "group")
HOST, GPU, SECOND_GPU = "host", "gpu 0", "gpu 1"

# the part of free GPU memory that is planned with: an allocator cannot use every gap
ROOM = 0.95
# what layer by layer keeps on the GPU: the layer that works and the one that is fetched meanwhile
LAYERS_AT_ONCE = 2


@dataclass(frozen=True)
class Place:
    """Where a component lies, as "host", "gpu 0" (the one that computes) or "gpu 1", and its bytes there."""

    waits: str
    works: str
    bytes: int


@dataclass(frozen=True)
class Choice:
    """Who is where.

    Attributes:
        mode: none (all stay on the GPU), second_gpu (the text encoder stays on another one), model (components take
            turns), fp8 (transformers are stored in 8 bits; then they stay or take turns), group (layer by layer).
        turns: whether components wait in main memory until it is their turn.
        places: by component.
        peak_gpu_bytes: on the GPU that computes; None on a CPU.
        host_bytes: main memory that loading and waiting need.
        reason: why, in a sentence with the figures.
        tiled: whether the autoencoder works in tiles.
    """

    mode: str
    turns: bool
    places: Mapping[str, Place]
    peak_gpu_bytes: int | None
    host_bytes: int
    reason: str
    tiled: bool = False

    @property
    def key(self) -> str:
        """Tells two placements apart: the mode, and for fp8 whether components take turns."""
        return f"{self.mode} in turns" if self.turns and self.mode == "fp8" else self.mode


@dataclass(frozen=True)
class _Case:
    """What there is to place."""

    components: Sequence[Component]
    activations: Mapping[str, int]
    machine: Machine

    @property
    def total(self) -> int:
        return sum(component.gpu_bytes for component in self.components)

    @property
    def most_active(self) -> int:
        return max(self.activations.values(), default=0)


def choose(
    components: Sequence[Component],
    activations: Mapping[str, int],
    machine: Machine,
    offload: str = "auto",
    tiled: Mapping[str, int] | None = None,
    without: Collection[str] = (),
) -> Choice:
    """Choose where components lie, and whether the autoencoder works in tiles.

    Tiles cost seconds of a clip's minutes, and differ from the whole by less than a level in the mean; so every mode is
    tried with them before the next one, which costs more.

    Args:
        components: of the stage.
        activations: bytes beside the weights while each works, by its name.
        machine: what is free.
        offload: auto takes the first of none, second_gpu, model, fp8 and group that fits; another one is taken or
            refused.
        tiled: as `activations`, with the autoencoder in tiles; None where it has to work whole.
        without: modes that auto does not take.

    Raises:
        RequestError: the mode that was asked for does not fit; the text has the figures.
        LabError: no mode fits, or main memory is too small to load the weights.
    """
    case = _Case(components, activations, machine)
    if machine.host_free is not None and case.total > machine.host_free:
        raise LabError(
            f"The weights are loaded through main memory and need {amount(case.total)} of it, and "
            f"{amount(machine.host_free)} are free. End other programs, or use a machine with more memory."
        )
    if not machine.gpus:
        places = {each.name: Place(HOST, HOST, each.gpu_bytes) for each in components}
        return Choice("none", False, places, None, case.total, "The CPU computes, so nothing is moved.")
    room = int(machine.gpus[0].free * ROOM)
    allowed = {each.mode for each in _candidates(case)} - {*without} if offload == "auto" else {offload}
    candidates = [each for each in _with_tiles(case, tiled) if each.mode in allowed]
    for choice in candidates:
        if _peak(choice) <= room and _second_fits(choice, case):
            return choice
    if not candidates:
        raise RequestError([("offload", f"{offload!r} does not apply to this stage; give 'auto' or 'none'")])
    raise _refusal(candidates, machine.gpus[0], room, offload)


def _with_tiles(case: _Case, tiled: Mapping[str, int] | None) -> list[Choice]:
    """The candidates, each followed by the same one in tiles."""
    whole = _candidates(case)
    if tiled is None or tiled.get("vae", 0) >= case.activations.get("vae", 0):
        return whole
    said = f" The VAE works in tiles, and needs {amount(tiled['vae'])} instead of {amount(case.activations['vae'])}."
    small = [
        replace(each, tiled=True, reason=each.reason + said) for each in _candidates(replace(case, activations=tiled))
    ]
    return [each for pair in zip(whole, small, strict=True) for each in pair]


def _candidates(case: _Case) -> list[Choice]:
    """Every way in which the components could lie, the preferred ones first."""
    made = [_resident(case, "none", {})]
    if len(case.machine.gpus) > 1 and "text_encoder" in case.activations:
        made.append(_aside(case))
    if len(case.components) > 1:
        made.append(_turns(case, "model", {}))
    cast = {each.name: each.fp8_bytes for each in case.components if each.fp8_bytes is not None}
    if cast:
        made += [_resident(case, "fp8", cast), _turns(case, "fp8", cast)]
    if len(case.components) > 1:
        made.append(_layer_by_layer(case))
    return made


def _resident(case: _Case, mode: str, cast: Mapping[str, int]) -> Choice:
    places = {each.name: Place(GPU, GPU, cast.get(each.name, each.gpu_bytes)) for each in case.components}
    weights = sum(place.bytes for place in places.values())
    # a layer of an 8-bit network is widened while it computes
    peak = (
        weights
        + case.most_active
        + max((each.largest_layer for each in case.components if each.name in cast), default=0)
    )
    what = f"{amount(weights)} of weights" + (", transformers in 8 bits," if cast else "")
    reason = f"All {what} and up to {amount(case.most_active)} of activations fit."
    return Choice(mode, False, places, peak, case.total, reason)


def _aside(case: _Case) -> Choice:
    places = {
        each.name: Place(*(2 * (SECOND_GPU if each.name == "text_encoder" else GPU,)), each.gpu_bytes)
        for each in case.components
    }
    weights = sum(place.bytes for place in places.values() if place.works == GPU)
    active = max(size for name, size in case.activations.items() if name != "text_encoder")
    reason = (
        f"With the text encoder ({amount(places['text_encoder'].bytes)}) on a second GPU, the other "
        f"{amount(weights)} of weights and up to {amount(active)} of activations fit."
    )
    return Choice("second_gpu", False, places, weights + active, case.total, reason)


def _turns(case: _Case, mode: str, cast: Mapping[str, int]) -> Choice:
    places = {each.name: Place(HOST, GPU, cast.get(each.name, each.gpu_bytes)) for each in case.components}
    peaks = {
        each.name: places[each.name].bytes
        + case.activations[each.name]
        + (each.largest_layer if each.name in cast else 0)
        for each in case.components
    }
    largest = max(peaks, key=lambda name: peaks[name])
    reason = (
        f"Components take turns{' with transformers in 8 bits' if cast else ''}: the largest need is that of "
        f"{largest}, {amount(places[largest].bytes)} of weights and {amount(case.activations[largest])} of activations."
    )
    return Choice(mode, True, places, peaks[largest], case.total, reason)


def _layer_by_layer(case: _Case) -> Choice:
    peaks = {each.name: LAYERS_AT_ONCE * each.largest_layer + case.activations[each.name] for each in case.components}
    places = {each.name: Place(HOST, GPU, LAYERS_AT_ONCE * each.largest_layer) for each in case.components}
    largest = max(peaks, key=lambda name: peaks[name])
    reason = (
        f"Layers come one by one while others compute: the largest need is that of {largest}, "
        f"{amount(case.activations[largest])} of activations and two layers."
    )
    return Choice("group", True, places, peaks[largest], case.total, reason)


def _peak(choice: Choice) -> int:
    assert choice.peak_gpu_bytes is not None  # candidates are made for a GPU
    return choice.peak_gpu_bytes


def _second_fits(choice: Choice, case: _Case) -> bool:
    aside = [name for name, place in choice.places.items() if place.works == SECOND_GPU]
    needed = sum(choice.places[name].bytes + case.activations[name] for name in aside)
    return not aside or needed <= int(case.machine.gpus[1].free * ROOM)


def _refusal(candidates: Sequence[Choice], gpu: Gpu, room: int, offload: str) -> LabError:
    least = min(candidates, key=_peak)
    there = (
        f"{amount(room)} can be used of the {amount(gpu.free)} that are free on the GPU ({amount(gpu.total)} in all)"
    )
    smaller = "choose a smaller resolution or fewer frames"
    if offload == "auto":
        return LabError(
            f"This does not fit in any mode: even with offload {least.mode} it needs {amount(_peak(least))}, and "
            f"{there}. End other programs that use the GPU, or {smaller}."
        )
    message = f"{offload!r} does not fit: it needs {amount(_peak(least))}, and {there}; give 'auto', or {smaller}"
    return RequestError([("offload", message)])


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
