"""Choose how the networks of a stage share GPU and host memory, from their sizes and from what is free.

Nothing is moved here; `apply_offload` does what was chosen.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from wanavatar_lab.errors import LabError, RequestError
from wanavatar_lab.memory.activations import activation_bytes
from wanavatar_lab.memory.components import DENOISERS, Component
from wanavatar_lab.memory.machine import Gpu, Machine, this_machine
from wanavatar_lab.memory.workload import Workload
from wanavatar_lab.runs.ranks import BY_ITSELF, Ranks
from wanavatar_lab.weights import amount

# the modes that a request can name beside auto, which also takes second_gpu
OFFLOAD_MODES = ("none", "model", "fp8", "group")
# those with which products can be in float8: weights are stored as they are, and move as they are
QUANTIZED_MODES = ("none", "second_gpu", "model")
HOST, GPU, SECOND_GPU = "host", "gpu 0", "gpu 1"

# the share of free GPU memory that is planned with: an allocator cannot use every gap
USABLE_SHARE = 0.95
# what group offload keeps on the GPU: the layer that computes and the one that is prefetched
LAYERS_ON_GPU = 2


@dataclass(frozen=True)
class Placement:
    """Where the weights of a component are.

    Attributes:
        idle: while other components compute: "host", "gpu 0" (the one that computes) or "gpu 1".
        active: while it computes.
        bytes: of its weights there while it computes.
    """

    idle: str
    active: str
    bytes: int


@dataclass(frozen=True)
class Choice:
    """How the components of a stage share memory.

    Attributes:
        mode: none (all stay on the GPU), second_gpu (the text encoder stays on another one), model (each is on the GPU
            while it computes, else in host memory), fp8 (transformers are stored in 8 bits; then all stay, or move as
            in model), group (layer by layer).
        offloaded: whether components are in host memory while they do not compute.
        placements: by component.
        activations: bytes beside the weights while each component computes.
        peak_gpu_bytes: on the GPU that computes; None on a CPU.
        host_bytes: host memory for loading and for offloaded weights.
        reason: why, in a sentence with the figures.
        tiled: whether the autoencoder works in tiles.
        quantization: of the products of denoising networks: none, or fp8, with their exact weights in host memory.
    """

    mode: str
    offloaded: bool
    placements: Mapping[str, Placement]
    activations: Mapping[str, int]
    peak_gpu_bytes: int | None
    host_bytes: int
    reason: str
    tiled: bool = False
    quantization: str = "none"

    @property
    def key(self) -> str:
        """The mode, and for fp8 whether components are offloaded as well: none, second_gpu, model, fp8+model, …"""
        return f"{self.mode}+model" if self.offloaded and self.mode == "fp8" else self.mode


def choose_for_device(
    components: Sequence[Component],
    workload: Workload,
    device: str,
    host_free: int | None,
    offload: str = "auto",
    excluded: Collection[str] = (),
    gpus: int = 1,
    ranks: Ranks = BY_ITSELF,
    quantization: str = "none",
) -> Choice:
    """Choose for this machine, as `choose` does, and query no GPU needlessly: each query costs memory on it.

    Args:
        components: of the stage.
        workload: of the stage.
        device: where it computes: cpu, cuda or cuda:<n>.
        host_free: bytes of host memory that the weights may take; None if they are loaded.
        offload, excluded: as for `choose`.
        gpus: how many share the run, none of which is free then for a text encoder.
        ranks: the processes that choose together, by the least free memory of them.
        quantization: as for `choose`.

    Raises:
        RequestError: the mode does not fit.
        LabError: no mode fits, or host memory is too small for the weights.
    """
    one = tuple(
        Gpu(gpu.name, ranks.least(gpu.total), ranks.least(gpu.free)) for gpu in this_machine(device, most=1).gpus
    )
    machine = Machine(one, host_free)
    if offload != "auto":
        return choose(components, workload, machine, offload, quantization=quantization)
    try:
        return choose(components, workload, machine, "none", quantization=quantization)
    except RequestError:
        if gpus == 1:
            machine = Machine(this_machine(device, most=2).gpus, host_free)
        return choose(components, workload, machine, excluded=excluded, quantization=quantization)


def choose(
    components: Sequence[Component],
    workload: Workload,
    machine: Machine,
    offload: str = "auto",
    excluded: Collection[str] = (),
    quantization: str = "none",
) -> Choice:
    """Choose the first mode that fits, without tiles or else with them.

    Tiles cost seconds of a clip's minutes, and change pixels by less than a level in the mean. So each mode is tried
    with tiles before the next one, which is slower.

    Args:
        components: of the stage.
        workload: of the stage.
        machine: what is free.
        offload: auto tries none, second_gpu, model, fp8 and group in this order; else the only mode to try.
        excluded: modes that auto does not try.
        quantization: none, or fp8 for products in float8, which only `QUANTIZED_MODES` have.

    Raises:
        RequestError: the mode named by `offload` does not fit; the text has the figures.
        LabError: no mode fits, or host memory is too small for the weights.
    """
    total = sum(component.gpu_bytes for component in components)
    if machine.host_free is not None and total > machine.host_free:
        raise LabError(
            f"The weights are loaded through main memory and need {amount(total)} of it, and "
            f"{amount(machine.host_free)} are free. End other programs, or use a machine with more memory."
        )
    whole, tiled = (activation_bytes(workload, components, tiled) for tiled in (False, True))
    if not machine.gpus:
        on_host = {each.name: Placement(HOST, HOST, each.gpu_bytes) for each in components}
        why = "The CPU computes, so nothing is moved."
        return Choice("none", False, on_host, whole, None, total, why, quantization=quantization)
    candidates = list(_candidates(components, whole, machine, quantization))
    if tiled.get("vae", 0) < whole.get("vae", 0):
        note = f" The VAE works in tiles, and needs {amount(tiled['vae'])} instead of {amount(whole['vae'])}."
        with_tiles = [
            replace(each, tiled=True, reason=each.reason + note)
            for each in _candidates(components, tiled, machine, quantization)
        ]
        candidates = [each for pair in zip(candidates, with_tiles, strict=True) for each in pair]
    candidates = [
        each for each in candidates if (each.mode not in excluded if offload == "auto" else each.mode == offload)
    ]
    if not candidates:
        raise RequestError([("offload", f"{offload!r} does not apply to this stage; give 'auto' or 'none'")])
    usable = int(machine.gpus[0].free * USABLE_SHARE)
    for choice in candidates:
        if _peak(choice) <= usable:
            if machine.host_free is not None and choice.host_bytes > machine.host_free:
                raise LabError(
                    f"With quantization fp8 and offload {choice.mode}, main memory holds the weights in both formats, "
                    f"{amount(choice.host_bytes)}, and {amount(machine.host_free)} are free. Set quantization to none, "
                    "end other programs, or use a machine with more memory."
                )
            return choice
    least, gpu = min(candidates, key=_peak), machine.gpus[0]
    there = f"{amount(usable)} can be used of the {amount(gpu.free)} free on the GPU ({amount(gpu.total)} in all)"
    if workload.stage == "text_to_speech":  # which takes as much for any text
        raise LabError(
            f"Speech needs {amount(_peak(least))}, and {there}. End other programs that use the GPU, or set "
            "WANAVATAR_DEVICE=cpu."
        )
    smaller = "choose a smaller resolution or fewer frames"
    if offload != "auto":
        message = f"{offload!r} does not fit: it needs {amount(_peak(least))}, and {there}; give 'auto', or {smaller}"
        raise RequestError([("offload", message)])
    raise LabError(
        f"This does not fit in any mode: even with offload {least.mode} it needs {amount(_peak(least))}, and {there}. "
        f"End other programs that use the GPU, or {smaller}."
    )


def _candidates(
    components: Sequence[Component], activations: Mapping[str, int], machine: Machine, quantization: str = "none"
) -> Iterator[Choice]:
    """Every way to place the components, the preferred ones first; on the first GPU they need not fit."""
    if quantization == "fp8":
        smaller = [
            replace(each, gpu_bytes=each.float8_bytes) if each.name in DENOISERS else each for each in components
        ]
        exact = sum(each.gpu_bytes for each in components)
        both = 2 * exact - sum(each.gpu_bytes for each in smaller)  # what is in 8 bits takes as much as it saves
        for choice in _candidates(smaller, activations, machine):
            if choice.mode in QUANTIZED_MODES:
                yield replace(choice, quantization="fp8", host_bytes=both if choice.offloaded else exact)
        for choice in _candidates(components, activations, machine):
            if choice.mode not in QUANTIZED_MODES:
                yield replace(
                    choice, reason=choice.reason + " Products are exact, since weights change between layers."
                )
        return
    several = len(components) > 1 and not any(each.name == "speech_model" for each in components)  # they stay together
    yield _resident("none", components, activations)
    text = next((each for each in components if each.name == "text_encoder"), None)
    second = machine.gpus[1] if len(machine.gpus) > 1 else None
    if text and second and text.gpu_bytes + activations[text.name] <= int(second.free * USABLE_SHARE):
        yield _resident("second_gpu", components, activations, on_second=text.name)
    if several:
        yield _offloaded("model", components, activations)
    if any(each.fp8_bytes is not None for each in components):
        yield _resident("fp8", components, activations)
        yield _offloaded("fp8", components, activations)
    if several:
        yield _offloaded("group", components, activations)


def _resident(
    mode: str, components: Sequence[Component], activations: Mapping[str, int], on_second: str | None = None
) -> Choice:
    """All components stay on the GPU, or one on a second GPU: in mode none, second_gpu or fp8."""
    on_gpu = {each.name: _bytes_on_gpu(each, mode) for each in components}
    gpus = {name: SECOND_GPU if name == on_second else GPU for name in on_gpu}
    first = [name for name in on_gpu if name != on_second]
    weights, active = sum(on_gpu[name][0] for name in first), max((activations[name] for name in first), default=0)
    what = f"All {amount(weights)} of weights{', transformers in 8 bits,' if mode == 'fp8' else ''}"
    if on_second is not None:
        size = amount(on_gpu[on_second][0])
        what = f"With the text encoder ({size}) on a second GPU, the other {amount(weights)} of weights"
    return Choice(
        mode,
        False,
        {name: Placement(gpus[name], gpus[name], size) for name, (size, _) in on_gpu.items()},
        activations,
        weights + active + max((upcast for _, upcast in on_gpu.values()), default=0),
        sum(each.gpu_bytes for each in components),
        f"{what} and up to {amount(active)} of activations fit.",
    )


def _offloaded(mode: str, components: Sequence[Component], activations: Mapping[str, int]) -> Choice:
    """One component, or in mode group two layers of one, is on the GPU at a time: in mode model, fp8 or group."""
    on_gpu = {each.name: _bytes_on_gpu(each, mode) for each in components}
    peaks = {name: size + upcast + activations[name] for name, (size, upcast) in on_gpu.items()}
    largest = max(peaks, key=lambda name: peaks[name])
    what = {
        "model": "Components are on the GPU one at a time",
        "fp8": "Components are on the GPU one at a time, with transformers in 8 bits",
        "group": "Layers come to the GPU one by one while others compute",
    }[mode]
    weights = "two layers" if mode == "group" else f"{amount(on_gpu[largest][0])} of weights"
    return Choice(
        mode,
        True,
        {name: Placement(HOST, GPU, size) for name, (size, _) in on_gpu.items()},
        activations,
        peaks[largest],
        sum(each.gpu_bytes for each in components),
        f"{what}: the largest need is that of {largest}, {weights} and {amount(activations[largest])} of activations.",
    )


def _bytes_on_gpu(component: Component, mode: str) -> tuple[int, int]:
    """Bytes of a component's weights on the GPU while it computes, and of a layer that is upcast from 8 bits."""
    if mode == "group":
        return LAYERS_ON_GPU * component.largest_layer, 0
    if mode == "fp8" and component.fp8_bytes is not None:
        return component.fp8_bytes, component.largest_layer
    return component.gpu_bytes, 0


def _peak(choice: Choice) -> int:
    assert choice.peak_gpu_bytes is not None  # candidates are for a GPU
    return choice.peak_gpu_bytes
