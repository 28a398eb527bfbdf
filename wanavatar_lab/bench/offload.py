"""This package's offloading beside diffusers' own: same stage, GPU and memory limit, each way in a fresh process.

A process for each way, since its peak of main memory counts and pinned memory stays with the process that pinned it.
The runs are those of a worker, without guidance: a step is one pass of the transformer.
"""

import functools
import itertools
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from diffusers import DiffusionPipeline
from diffusers.hooks import apply_group_offloading

from wanavatar_lab.bench.cases import Case, request_of
from wanavatar_lab.bench.stages import Figures, RandomStage, machine_figures, memory_limit, sizes_of, timed_run
from wanavatar_lab.bench.watch import Call
from wanavatar_lab.errors import LabError
from wanavatar_lab.memory import Choice, Workload
from wanavatar_lab.memory.activations import set_tiling
from wanavatar_lab.memory.apply_offload import FP8, compute_dtype, networks
from wanavatar_lab.memory.choose_offload import choose_for_device
from wanavatar_lab.memory.components import DENOISERS
from wanavatar_lab.profiles import PROFILES


def group_offload(pipeline: DiffusionPipeline, device: torch.device, blocks: bool = False, **options: bool) -> None:
    """diffusers' group offloading of all networks, with a stream where the device has one.

    Args:
        pipeline: in main memory.
        device: where it computes.
        blocks: whether the transformers come block by block. The other networks come leaf by leaf in any case: those of
            transformers have no blocks where diffusers looks for them, and would come whole.
        options: as `apply_group_offloading` takes them; those that need a stream are left out on a CPU.
    """
    streams = {"use_stream": True, **options} if device.type != "cpu" else {}
    for name, network in networks(pipeline).items():
        by_blocks = blocks and name in DENOISERS
        apply_group_offloading(
            network,
            onload_device=device,
            offload_device=torch.device("cpu"),
            offload_type="block_level" if by_blocks else "leaf_level",
            num_blocks_per_group=1 if by_blocks else None,
            non_blocking=True,
            **streams,
        )


def model_offload(pipeline: DiffusionPipeline, device: torch.device, in_8_bits: bool = False) -> None:
    """diffusers' offloading of whole networks.

    Args:
        pipeline: in main memory.
        device: where it computes.
        in_8_bits: whether the transformers are stored in 8 bits first, by diffusers too.
    """
    for name, network in networks(pipeline).items():
        if in_8_bits and name in DENOISERS:
            network.enable_layerwise_casting(  # type: ignore[operator]
                storage_dtype=FP8, compute_dtype=compute_dtype(network)
            )
    pipeline.enable_model_cpu_offload(device=device)


@dataclass(frozen=True)
class Way:
    """A way to offload.

    Attributes:
        mode: of this package, which plans for it whether it fits and whether the autoencoder works in tiles.
        apply: diffusers' own way for a pipeline and a device; None for this package's.
    """

    mode: str
    apply: Callable[[DiffusionPipeline, torch.device], None] | None = None


WAYS: dict[str, Way] = {
    "auto": Way("auto"),
    "model": Way("model"),
    "fp8": Way("fp8"),
    "group": Way("group"),
    "diffusers-model": Way("model", model_offload),
    "diffusers-fp8-model": Way("fp8", functools.partial(model_offload, in_8_bits=True)),
    "diffusers-leaf": Way("group", group_offload),
    "diffusers-leaf-record": Way("group", functools.partial(group_offload, record_stream=True)),
    "diffusers-leaf-low-cpu": Way("group", functools.partial(group_offload, low_cpu_mem_usage=True)),
    "diffusers-block": Way("group", functools.partial(group_offload, blocks=True, record_stream=True)),
}


# those whose transformers are large enough to need offloading most
VIDEO_STAGES = ("image_to_video", "speech_to_video")


def measure_offload(
    cases: Sequence[Case],
    size: str,
    device: str,
    memory_gb: float | None,
    ways: Sequence[str],
    on_figures: Callable[[Figures], None],
) -> Figures:
    """Run the cases in every way.

    Args:
        cases: of video stages; those of one stage share a process, and all but the first of them find the weights
            placed.
        size: published or tiny.
        device: cpu, cuda or cuda:<n>.
        memory_gb: of the GPU's memory, the most that a process may take, in 10⁹ bytes; None for all.
        ways: names in `WAYS`.
        on_figures: gets the figures so far after every way.

    Returns:
        The machine, and `rows`, one for each stage and way; in seconds and bytes.

    Raises:
        LabError: a case is of another stage or has one step.
    """
    for case in cases:
        if case.stage not in VIDEO_STAGES:
            raise LabError(f"{case.stage} is not measured here; give image-to-video or speech-to-video.")
        if case.steps < 2:
            raise LabError(
                f"A step is timed from the end of the one before, so {case.steps} is too few; give 2 or more."
            )
    figures = _in_a_process(machine_figures, device) | {"bench": "offload", "size": size, "rows": []}
    for stage, way in itertools.product(dict.fromkeys(case.stage for case in cases), ways):
        row: Figures = {"stage": stage, "way": way, "memory_limit_bytes": memory_gb and int(memory_gb * 1e9)}
        try:
            some = [case for case in cases if case.stage == stage]
            row |= _in_a_process(_attempt, way, some, size, device, memory_gb)
        except BrokenProcessPool as error:
            # the system kills a process for which host memory is too small
            row["error"] = f"{type(error).__name__}: {error}"
        figures["rows"].append(row)
        on_figures(figures)
    return figures


def _in_a_process(function: Callable[..., Figures], *arguments: Any) -> Figures:
    # forked from a process that has imported everything, and has not touched the GPU
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def _attempt(*arguments: Any) -> Figures:
    try:
        return _measure(*arguments)
    except (LabError, RuntimeError) as error:
        # that a way needs too much memory is a result too
        return {"error": f"{type(error).__name__}: {error}"[:1000]}


def _measure(name: str, cases: Sequence[Case], size: str, device: str, memory_gb: float | None) -> Figures:
    """One stage in one way, in this process."""
    way = WAYS[name]
    with tempfile.TemporaryDirectory() as folder, memory_limit(device, memory_gb), _HostPeak() as host:
        start = time.perf_counter()
        module = RandomStage(cases[0].stage, size, Path(folder))
        models = module.load(PROFILES["full"], device)
        made: Figures = {"load_seconds": time.perf_counter() - start, "host_loaded_bytes": host.peak, "cases": []}
        if way.apply is not None:
            models.place = functools.partial(_place, models, name, way.apply)
        for number, case in enumerate(cases):
            made["cases"].append(_run(module, models, case, way.mode, Path(folder) / str(number)))
        if torch.device(device).type == "cuda":
            made["pinned_by_torch_bytes"] = torch.cuda.host_memory_stats().get("allocated_bytes.peak")
    return made | {"host_bytes": host.peak, "host_resident_bytes": host.resident}


def _place(models: Any, name: str, apply: Callable[..., None], offload: str, workload: Workload, _: str) -> Choice:
    """Place the models by a way of diffusers, whose memory is planned as for the mode of this package."""
    choice = choose_for_device(models.components(), workload, models.device, None, offload)
    set_tiling(models.pipeline.vae, choice.tiled)
    if models.choice is None:
        apply(models.pipeline, torch.empty(0, device=models.device).device)
    models.choice = replace(choice, mode=name, offloaded=False)
    return models.choice


def _run(module: RandomStage, models: Any, case: Case, offload: str, folder: Path) -> Figures:
    made = sizes_of(case) | timed_run(module, request_of(case, folder, offload, guidance_scale=1.0), models, folder)
    made["run_seconds"] -= models.offload_seconds
    calls: dict[str, list[Call]] = models.watch.calls
    made |= {
        "mode": models.choice.key,
        "vae_tiled": models.choice.tiled,
        "place_seconds": models.offload_seconds,
        "networks": {
            name: {key: [round(getattr(call, key), 4) for call in some] for key in ("seconds", "arrival_seconds")}
            for name, some in calls.items()
        },
    }
    if "peak_bytes" in made:
        denoising = [call for name in DENOISERS for call in calls.get(name, [])]
        made["denoise_peak_bytes"] = max(call.weights_bytes + (call.beside_bytes or 0) for call in denoising)
    return made


class _HostPeak(threading.Thread):
    """The most host memory that was in use while the context was entered, in bytes beyond what was in use before.

    Attributes:
        peak: of the whole machine, pinned memory included, which not every system counts as the process's.
        resident: of the process.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._ended, self._before = threading.Event(), self._used()
        self.peak = self.resident = 0

    def __enter__(self) -> "_HostPeak":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(0.05)
            self.peak = max(self.peak, self._used() - self._before)
            self.resident = max(self.resident, psutil.Process().memory_info().rss)

    @staticmethod
    def _used() -> int:
        memory = psutil.virtual_memory()
        return int(memory.total - memory.available)
