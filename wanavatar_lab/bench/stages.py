"""The stages one after the other in one process, at true size: seconds for loading, moving, denoising and decoding.

Models have random weights and go through the worker's cache of models, so that each makes room for the next one in
host memory, and `auto` chooses by what is free.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import torch

from wanavatar_lab.bench.cases import Case, request_of
from wanavatar_lab.bench.random_models import random_pipeline, write_random_upscaler
from wanavatar_lab.bench.watch import Call, Watch, median_seconds, say, synchronize
from wanavatar_lab.errors import LabError, is_out_of_memory
from wanavatar_lab.memory import Component, Workload, expected_seconds, free_host_bytes, this_machine, workload_of
from wanavatar_lab.memory.activations import need
from wanavatar_lab.memory.apply_offload import OffloadableModels, networks
from wanavatar_lab.memory.choose_offload import Choice
from wanavatar_lab.memory.components import PUBLISHED
from wanavatar_lab.profiles import Profile
from wanavatar_lab.runs.ranks import BY_ITSELF, Ranks
from wanavatar_lab.runs.status import Artifact
from wanavatar_lab.stages import stage_module
from wanavatar_lab.stages.context import StageContext, Step
from wanavatar_lab.worker.model_cache import ModelCache

Figures = dict[str, Any]


def measure_stages(
    cases: Sequence[Case],
    size: str,
    device: str,
    memory_gb: float | None,
    offload: str,
    on_figures: Callable[[Figures], None],
) -> Figures:
    """Run the cases in order.

    Args:
        cases: which; the models of a stage that comes again are cached.
        size: published or tiny.
        device: cpu, cuda or cuda:<n>.
        memory_gb: of the GPU's memory, the most that this process may take, in 10⁹ bytes; None for all.
        offload: the mode, or auto.
        on_figures: gets the figures so far after every case.

    Returns:
        The machine, and `cases`; in seconds and bytes.

    Raises:
        LabError: `memory_gb` is more than the GPU has, or there is no GPU.
    """
    figures: Figures = {"bench": "stages", "size": size, "host_free_bytes": free_host_bytes(), "cases": []}
    figures["memory_limit_bytes"] = memory_gb and int(memory_gb * 1e9)
    cache = ModelCache(device)
    with tempfile.TemporaryDirectory() as folder, memory_limit(device, memory_gb):
        figures |= machine_figures(device)
        modules = {case.stage: RandomStage(case.stage, size, Path(folder)) for case in cases}
        for number, case in enumerate(cases):
            say(f"{case.stage} {case.width}x{case.height}x{case.frames}, {case.steps} steps …")
            found: Figures = {"stage": case.stage, **sizes_of(case)}
            try:
                found |= _measure(case, cache, modules[case.stage], Path(folder) / str(number), offload)
            except (LabError, RuntimeError) as error:
                # the other cases can still run
                if is_out_of_memory(error):
                    cache.forget()
                found["error"] = f"{type(error).__name__}: {error}"[:1000]
            figures["cases"].append(found)
            on_figures(figures)
    return figures


def machine_figures(device: str) -> Figures:
    """The device, and the rate at which pinned host memory is copied to a GPU."""
    figures: Figures = {"device": "cpu", "gpu_bytes": None, "cores": os.cpu_count(), "torch": torch.__version__}
    figures["diffusers"] = diffusers.__version__
    figures["date"] = datetime.now(UTC).isoformat(timespec="seconds")
    if device != "cpu":
        properties = torch.cuda.get_device_properties(device)
        host = torch.empty(1 << 30, dtype=torch.uint8, pin_memory=True)
        on_gpu = torch.empty_like(host, device=device)
        seconds = median_seconds(lambda: on_gpu.copy_(host), warm_up=1, repeats=5)
        figures |= {"device": properties.name, "gpu_bytes": properties.total_memory}
        figures["link_bytes_per_second"] = host.nbytes / seconds
        del on_gpu
        torch.cuda.empty_cache()
    return figures


def sizes_of(case: Case) -> Figures:
    """What identifies a case among those of its stage."""
    sizes = {name: getattr(case, name) for name in ("width", "height", "frames", "steps")}
    return sizes | {"fields": dict(case.fields)}


def _measure(case: Case, cache: ModelCache, module: "RandomStage", folder: Path, offload: str) -> Figures:
    request = request_of(case, folder, offload)
    name = f"{case.stage}/full"
    was_cached = name == cache.name or name in cache.waiting
    start = time.perf_counter()
    models = cache.models(request, module)
    synchronize()
    found: Figures = {"was_warm": was_cached, "load_seconds": time.perf_counter() - start}
    found |= timed_run(module, request, models, folder)
    workload, calls = workload_of(request, (case.width, case.height)), models.watch.calls
    found |= {
        "passes": workload.passes,
        "networks": {name: _summary(some) for name, some in calls.items()},
        "host_free_bytes": free_host_bytes(),
        "waiting": list(cache.waiting),
    }
    if case.stage == "upscale":
        return found | {"units": _factors(workload, PUBLISHED["upscale"], calls)}
    choice, components = models.choice, models.components()
    found |= {
        "mode": choice.key,
        "place_seconds": models.offload_seconds,
        "reason": choice.reason,
        "planned_peak_bytes": choice.peak_gpu_bytes,
        "expected_seconds": expected_seconds(workload, components, this_machine(cache.device, most=1), choice.tiled),
        "planned_activation_bytes": choice.activations,
        "weights_bytes": {component.name: component.gpu_bytes for component in components},
    }
    if choice.mode in ("none", "second_gpu", "model"):
        found["units"] = _factors(workload, components, calls, choice.tiled)
    return found


def timed_run(module: "RandomStage", request: Any, models: Any, folder: Path) -> Figures:
    """Run a request on watched models.

    Returns:
        run_seconds; step_seconds of each denoising step but the first, which includes everything before it, and the
        median from the third step on; on a GPU peak_bytes and reserved_bytes.
    """
    step_ends: list[float] = []

    def on_step(step: Step) -> None:
        if step.phase == "denoise" and step.step > 0:
            synchronize()
            step_ends.append(time.perf_counter())

    watch: Watch = models.watch
    watch.begin()
    synchronize()
    start = time.perf_counter()
    module.run(request, models, StageContext(folder, 1, on_step))
    synchronize()
    figures: Figures = {"run_seconds": time.perf_counter() - start}
    watch.update_peak()
    steps = figures["step_seconds"] = [after - before for before, after in pairwise(step_ends)]
    if steps:
        # blocks are compiled in the second step, since the first fills the memory of a segment
        figures["seconds_per_step"] = statistics.median(steps[1:] or steps)
    if watch.peak_bytes:
        figures |= {"peak_bytes": watch.peak_bytes, "reserved_bytes": watch.reserved_bytes}
    return figures


def _summary(calls: Sequence[Call]) -> Figures:
    return {
        "calls": len(calls),
        "seconds": statistics.median(call.seconds for call in calls),
        "first_seconds": calls[0].seconds,
        "arrival_seconds": max(call.arrival_seconds for call in calls),
        "weights_bytes": max(call.weights_bytes for call in calls),
        "beside_bytes": _most_beside(calls),
        "held_bytes": max(call.held_bytes for call in calls),
    }


def _factors(
    workload: Workload, components: Iterable[Component], calls: Mapping[str, Sequence[Call]], tiled: bool = False
) -> dict[str, Figures]:
    """The factors of `memory.activations` by which the memory that was measured would be planned, by component.

    Args:
        workload: of the run.
        components: of the stage.
        calls: of each network, recorded while its weights were whole on the GPU.
        tiled: whether the autoencoder worked in tiles.
    """
    found: dict[str, Figures] = {}
    for component in components:
        # an autoencoder's calls are under two names, "vae.encode" and "vae.decode"
        its = [call for name, some in calls.items() if name.partition(".")[0] == component.name for call in some]
        beside = _most_beside(its)
        if beside is not None:
            planned = need(workload, component, tiled)
            measured = round(planned.factor_for(beside), 3)
            found[component.name] = {"unit": planned.factor, "measured": measured, "beside_bytes": beside}
    return found


def _most_beside(calls: Iterable[Call]) -> int | None:
    """The most memory beside the weights; None where the CPU computes."""
    return max((call.beside_bytes for call in calls if call.beside_bytes is not None), default=None)


class RandomStage(ModuleType):
    """A stage for the worker's cache of models: `load` makes random weights, `run` is the stage's own.

    Args:
        stage: which.
        size: published or tiny.
        folder: where the weights file of upscale is written.
    """

    def __init__(self, stage: str, size: str, folder: Path) -> None:
        super().__init__(f"random_{stage}")
        self._stage, self._size, self._folder = stage, size, folder
        self._module: Any = stage_module(stage)

    def load(self, profile: Profile, device: str) -> Any:
        """Models in host memory, their networks watched."""
        if self._stage == "upscale":
            file = self._folder / "RealESRGAN_random.pth"
            write_random_upscaler(file, self._size)
            upscaler = self._module.Models(file, device)
            upscaler.watch = Watch({"network": upscaler.network().module})
            return upscaler
        empty = self._folder / "no_files"  # whose hashes a manifest could name
        empty.mkdir(exist_ok=True)
        dtype = getattr(torch, profile.dtype(device))
        random = {"stage": self._stage, "size": self._size, "weights_dtype": dtype}
        kind = type("RandomModels", (_RandomModels, self._module.Models), random)
        return kind(folder=empty, elsewhere={}, dtype=dtype, device=device)

    def bytes_to_load(self) -> int:
        """Host memory that its networks take; tiny ones are not worth counting."""
        return 0 if self._size == "tiny" else sum(component.gpu_bytes for component in PUBLISHED[self._stage])

    def run(self, request: Any, models: Any, context: StageContext) -> list[Artifact]:
        """As the stage itself."""
        return list(self._module.run(request, models, context))


class _RandomModels(OffloadableModels):
    """Overrides of a stage's models.

    Attributes:
        stage, size, weights_dtype: of the random weights.
        watch: of the networks.
        offload_seconds: that the last `apply_offload` took.
    """

    stage: str
    size: str
    weights_dtype: torch.dtype
    watch: Watch
    offload_seconds: float = 0.0

    def read(self) -> None:
        self.pipeline = random_pipeline(self.stage, self.size, self.weights_dtype)
        self.watch = Watch(networks(self.pipeline))

    def apply_offload(
        self, offload: str, workload: Workload, ranks: Ranks = BY_ITSELF, quantization: str = "none"
    ) -> Choice:
        synchronize()
        start = time.perf_counter()
        choice = self.place(offload, workload, quantization)
        synchronize()
        self.offload_seconds = time.perf_counter() - start
        return choice

    def place(self, offload: str, workload: Workload, quantization: str) -> Choice:
        """As the stage itself; the bench of offloading replaces it by a way of diffusers."""
        return super().apply_offload(offload, workload, quantization=quantization)


@contextmanager
def memory_limit(device: str, memory_gb: float | None) -> Iterator[None]:
    """Limit the GPU memory of this process, in 10⁹ bytes."""
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
