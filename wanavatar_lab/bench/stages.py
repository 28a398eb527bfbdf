"""The stages one after the other in one process, at true size: what loading, moving, denoising and decoding take.

The models pass through `ModelCache`, as in a worker, so that each makes room for the next one in main memory, and
`auto` chooses by what is free.

What the factors of `residency.activations` would be by what was measured.

How fast a GPU takes what lies in pinned main memory.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from wanavatar_lab.bench.cases import Case
from wanavatar_lab.bench.random_stage import RandomStage
from wanavatar_lab.bench.watch import Call, Watch, wait
from wanavatar_lab.errors import LabError, is_out_of_memory
from wanavatar_lab.memory import Component, Work, expected_seconds, free_host_bytes, this_machine, work_of
from wanavatar_lab.memory.activations import activation_bytes, need
from wanavatar_lab.memory.components import PUBLISHED
from wanavatar_lab.stages.context import StageContext, Step
from wanavatar_lab.worker.model_cache import ModelCache


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


def copy_rate(device: str, size: int = 1 << 30, repeats: int = 5) -> float:
    """Bytes per second of the best of several copies of `size` bytes from pinned main memory to a GPU."""
    here = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(size, dtype=torch.uint8, device=device)
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        there.copy_(here, non_blocking=True)
        torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    del here, there
    torch.cuda.empty_cache()
    return size / min(times)


Figures = dict[str, Any]


@dataclass
class Steps:
    """When denoising steps ended, in seconds since it was made."""

    begun: float = field(default_factory=time.perf_counter)
    ends: list[float] = field(default_factory=list)

    def on_step(self, step: Step) -> None:
        """As `StageContext` reports them."""
        if step.phase == "denoise" and step.step > 0:
            wait()
            self.ends.append(time.perf_counter() - self.begun)

    def seconds(self) -> list[float]:
        """Of every step but the first, which shares its time with what comes before it."""
        return [after - before for before, after in zip(self.ends, self.ends[1:], strict=False)]


def measure_stages(
    cases: Sequence[Case],
    size: str,
    device: str,
    *,
    memory_gb: float | None = None,
    offload: str = "auto",
    on_case: Callable[[Figures], None] | None = None,
) -> Figures:
    """Run the cases in order.

    Args:
        cases: which; a stage that comes again is warm.
        size: published or tiny.
        device: cpu, cuda or cuda:<n>.
        memory_gb: of the GPU's memory, what this process may take; None for all.
        offload: the mode, or auto.
        on_case: gets the figures so far after every case.

    Returns:
        What was measured: the machine, and `cases`; seconds, and sizes in bytes.
    """
    figures = _machine(device, size, memory_gb)
    cache = ModelCache(device)
    with tempfile.TemporaryDirectory() as folder, _limited(device, memory_gb):
        if device != "cpu":
            figures["link_bytes_per_second"] = copy_rate(device)
        modules = {case.stage: RandomStage(case.stage, size, Path(folder)) for case in cases}
        for number, case in enumerate(cases):
            place = Path(folder) / str(number)
            place.mkdir()
            figures["cases"].append(_attempt(case, cache, modules[case.stage], place, offload))
            if on_case is not None:
                on_case(figures)
    return figures


def _attempt(case: Case, cache: ModelCache, module: Any, folder: Path, offload: str) -> Figures:
    made: Figures = {
        "stage": case.stage,
        "width": case.width,
        "height": case.height,
        "frames": case.frames,
        "steps": case.steps,
    }
    try:
        return made | _measure(case, cache, module, folder, offload)
    except (LabError, RuntimeError) as error:
        # the other cases still have something to say
        if is_out_of_memory(error):
            cache.forget()
        return made | {"error": f"{type(error).__name__}: {error}"[:1000]}


def _measure(case: Case, cache: ModelCache, module: Any, folder: Path, offload: str) -> Figures:
    request = case.request(folder, offload)
    was_warm = cache.name == f"{case.stage}/full" or f"{case.stage}/full" in cache.waiting
    start = time.perf_counter()
    models = cache.models(request, module)
    wait()
    load_seconds = time.perf_counter() - start
    watch: Watch = models.watch
    watch.begin()
    steps = Steps()
    start = time.perf_counter()
    module.run(request, models, StageContext(folder, 1, steps.on_step))
    wait()
    seconds = time.perf_counter() - start
    watch.note_peak()
    work = work_of(request, (case.width, case.height))
    made: Figures = {
        "passes": work.passes,
        "was_warm": was_warm,
        "load_seconds": load_seconds,
        "run_seconds": seconds,
        "step_seconds": steps.seconds(),
        "networks": {name: _summary(calls) for name, calls in watch.calls.items()},
        "host_free_bytes": free_host_bytes(),
        "waiting": list(cache.waiting),
    }
    if steps.seconds():
        made["seconds_per_step"] = statistics.median(steps.seconds())
    if torch.device(cache.device).type == "cuda":
        made |= {"peak_bytes": watch.peak_bytes, "reserved_bytes": watch.reserved_bytes}
    choice = getattr(models, "choice", None)
    if choice is not None:
        components = models.components()
        made |= {
            "mode": choice.key,
            "place_seconds": models.place_seconds,
            "reason": choice.reason,
            "planned_peak_bytes": choice.peak_gpu_bytes,
            "expected_seconds": expected_seconds(work, components, this_machine(cache.device, most=1), choice.tiled),
            "planned_activation_bytes": activation_bytes(work, components, choice.tiled),
            "weights_bytes": {component.name: component.gpu_bytes for component in components},
        }
        if choice.mode in ("none", "second_gpu", "model"):
            made["units"] = calibrated(work, components, watch.calls, choice.tiled)
    elif case.stage == "upscale":
        made["units"] = calibrated(work, [each.component() for each in PUBLISHED["upscale"]], watch.calls)
    return made


def _summary(calls: Sequence[Any]) -> Figures:
    beside = [call.beside_bytes for call in calls if call.beside_bytes is not None]
    return {
        "calls": len(calls),
        "seconds": statistics.median(call.seconds for call in calls),
        "first_seconds": calls[0].seconds,
        "arrival_seconds": max(call.arrival_seconds for call in calls),
        "weights_bytes": max(call.weights_bytes for call in calls),
        "beside_bytes": max(beside, default=None),
        "held_bytes": max(call.held_bytes for call in calls),
    }


def _machine(device: str, size: str, memory_gb: float | None) -> Figures:
    gpu = this_machine(device, most=1).gpus[0] if device != "cpu" else None
    return {
        "bench": "stages",
        "size": size,
        "device": gpu.name if gpu else "cpu",
        "gpu_bytes": gpu.total if gpu else None,
        "memory_limit_bytes": None if memory_gb is None else int(memory_gb * 1e9),
        "host_free_bytes": free_host_bytes(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "cases": [],
    }


@contextmanager
def _limited(device: str, memory_gb: float | None) -> Iterator[None]:
    """Let this process take no more of the GPU's memory, in 10⁹ bytes, than it says.

    Raises:
        LabError: there is no GPU, or it has less.
    """
    if memory_gb is None:
        yield
        return
    if device == "cpu":
        raise LabError("--memory-gb limits a GPU's memory, and there is none. Leave it out.")
    total = torch.cuda.get_device_properties(device).total_memory
    if memory_gb * 1e9 > total:
        raise LabError(f"--memory-gb is {memory_gb:g}, and the GPU has {total / 1e9:.1f}. Give less.")
    index = torch.empty(0, device=device).device.index
    torch.cuda.set_per_process_memory_fraction(memory_gb * 1e9 / total, index)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, index)
