"""A denoising step of S2V and the decoding of its clip, by one GPU and by several that share them, at true size."""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from torch.distributed import FileStore  # type: ignore[attr-defined]

from wanavatar_lab.bench.network import check_memory, random_inputs, random_model
from wanavatar_lab.bench.parts import kernel_seconds, kinds_of, largest_of
from wanavatar_lab.bench.random_models import SIZES as MODELS
from wanavatar_lab.bench.random_models import random_network
from wanavatar_lab.bench.watch import clock_and_power, median_seconds, say
from wanavatar_lab.errors import LabError
from wanavatar_lab.files import write_json
from wanavatar_lab.memory import Machine, Workload, expected_seconds
from wanavatar_lab.memory.components import Component, dimensions
from wanavatar_lab.memory.machine import Gpu
from wanavatar_lab.runs.ranks import ALONE, BY_ITSELF, Layout, Ranks
from wanavatar_lab.s2v import SegmentMemory
from wanavatar_lab.stages import kernels
from wanavatar_lab.wan import attention
from wanavatar_lab.wan.context_parallel import join, leave, share, unshare
from wanavatar_lab.wan.latents import LatentCodec
from wanavatar_lab.wan.vae import fit_device, make_fast
from wanavatar_lab.worker.child_process import how_it_ended
from wanavatar_lab.worker.rank_group import threads_of

TIMEOUT = 600.0  # seconds that processes wait for each other; compiling takes minutes


def measure_ranks(
    size: str,
    clip: tuple[int, int, int],
    device: str,
    world: int,
    *,
    compiled: bool,
    repeats: int = 3,
    profile: bool = False,
) -> dict[str, Any]:
    """A step, of two passes, alone and in every layout of so many processes.

    Args:
        size: of the network, a name in `network.SIZES`.
        clip: height, width and frames.
        device: cpu, or cuda, of which the first GPUs compute.
        world: how many processes.
        compiled: whether blocks are compiled.
        repeats: steps that count.
        profile: whether the kernels of one more step are counted by kind; those of an exchange wait for the other GPU.

    Returns:
        The device, and `rows`: first without sharing, then each layout. `step_s` is the time of the slowest process,
        `computed_times` the speedup by the cost model, `difference` that of the guided flow from one process's, and
        `pass_difference` the larger one of its two passes, which guidance takes apart. `clock_mhz` and the like are
        means of the processes.

    Raises:
        LabError: there are not so many GPUs, main memory does not hold the networks, or a process has failed.
    """
    check_memory(size, torch.device(device), world)
    if device != "cpu" and world > torch.cuda.device_count():
        raise LabError(f"{world} GPUs are asked for, and torch sees {torch.cuda.device_count()}. Give --gpus as many.")
    figures: dict[str, Any] = in_processes(_run, world, size, clip, device, compiled, repeats, profile)
    return figures


def in_processes(run: Callable[..., None], world: int, *arguments: Any) -> Any:
    """What processes that compute together measure.

    Args:
        run: of a module, what each of them does; called with its rank, `world`, the arguments and a folder, where they
            may meet and where one of them writes figures.json.
        world: how many there are.
        arguments: that can be pickled.

    Raises:
        LabError: one of them has failed.
    """
    context = torch.multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        every = (world, *arguments, Path(folder))
        processes = [context.Process(target=run, args=(rank, *every)) for rank in range(world)]
        for process in processes:
            process.start()
        # one that fails leaves the others waiting for it
        while any(process.is_alive() for process in processes) and not any(process.exitcode for process in processes):
            time.sleep(0.1)
        failed = {rank: process.exitcode for rank, process in enumerate(processes) if process.exitcode}
        for process in processes:
            if failed:
                process.kill()
            process.join()
        if failed:
            how = "; ".join(f"rank {rank} of {world}: {how_it_ended(code)}" for rank, code in failed.items())
            raise LabError(f"A process has failed ({how}); what it printed is above.")
        return json.loads((Path(folder) / "figures.json").read_text(encoding="utf-8"))


@torch.no_grad()
def _run(
    rank: int,
    world: int,
    size: str,
    clip: tuple[int, int, int],
    device: str,
    compiled: bool,
    repeats: int,
    profile: bool,
    folder: Path,
) -> None:
    own = torch.device("cpu" if device == "cpu" else f"cuda:{rank}")
    on_gpu, ranks = own.type == "cuda", Ranks(rank, world)
    if not on_gpu:
        torch.set_num_threads(threads_of(world))
    join(ranks, FileStore(str(folder / "meeting"), world), str(own), TIMEOUT)
    dtype = torch.bfloat16 if on_gpu else torch.float32
    model, backend = network_of(ranks, size, dtype, own, "auto", folder, compiled=compiled)
    inputs, workload = random_inputs(model, *clip, own, dtype), Workload("speech_to_video", clip[1], clip[0], clip[2])
    parts = [Component("transformer", 1, 2, None, **dimensions(model.config))]
    name = torch.cuda.get_device_name(own) if on_gpu else "cpu"
    machine = Machine((Gpu(name, 0, 0),) if on_gpu else (), None)
    layouts = [ALONE, Layout(1, world), *([Layout(2, world // 2)] if world % 2 == 0 else [])]
    codec, frames = _random_codec(size, own), clip[2]
    latents = torch.cat([inputs["motion_latents"], inputs["hidden_states"]], dim=2)
    rows: list[dict[str, Any]] = []
    wanted = [torch.empty(0)]
    for layout in layouts:
        # one that computes by itself is as fast beside others that do the same
        if layout != ALONE:
            share([model], ranks, layout)
        made = [torch.empty(0)]
        memories = [SegmentMemory(), SegmentMemory()]

        def step(memories: list[SegmentMemory] = memories) -> None:
            nonlocal made
            made = guided_step(model, inputs, memories)

        if rank == 0:
            say(f"{layout} …")
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(own)
        first = median_seconds(step, warm_up=0, repeats=1)
        step()
        with clock_and_power(own) as state:
            seconds = median_seconds(step, warm_up=0, repeats=repeats)
        by_name = kernel_seconds(step, on_gpu) if profile else {}
        unshare([model])
        if layout == ALONE:
            wanted = made
        peak = torch.cuda.max_memory_allocated(own) if on_gpu else 0
        codec.vae.decoder.ranks = BY_ITSELF if layout == ALONE else ranks
        decoding = median_seconds(partial(codec.decode, latents, wanted=frames), warm_up=1, repeats=repeats)
        row: dict[str, Any] = {"gpus": layout.world, "shared": str(layout), "attention": backend, "compiled": compiled}
        row |= {"first_step_s": round(first, 3), "decode_s": round(decoding, 3)}
        # the others wait for the slowest, also where two GPUs of one model are not equally fast
        states: list[Any] = [None] * world
        torch.distributed.all_gather_object(states, (seconds, state))
        row["step_s_by_rank"] = [round(each, 4) for each, _ in states]
        row["step_s"] = max(row["step_s_by_rank"])
        for fact in ("clock_mhz", "power_w", "power_capped"):
            if all(fact in found for _, found in states):
                row[fact] = round(statistics.mean(found[fact] for _, found in states), 2)
        row["times"] = round((rows[0] if rows else row)["step_s"] / row["step_s"], 3)
        if profile:
            row["kernels"] = {kind: round(each, 4) for kind, each in kinds_of(by_name).items()}
            row["largest_kernels"] = {name: round(each, 4) for name, each in largest_of(by_name).items()}
        load = Workload(**{**vars(workload), "passes": 2})
        estimates = [expected_seconds(load, parts, machine, layout=each) for each in (ALONE, layout)]
        row["computed_times"] = round(estimates[0] / estimates[1], 3) if estimates[0] and estimates[1] else None
        row["difference"], row["pass_difference"] = differences(made, wanted)
        if on_gpu:
            row["peak_memory_gb"] = round(peak / 1e9, 2)
        rows.append(row)
    if rank == 0:
        write_figures(folder, "ranks", size, name, clip, rows)
    leave()


def network_of(
    ranks: Ranks, size: str, dtype: torch.dtype, device: torch.device, attend_by: str, folder: Path, *, compiled: bool
) -> tuple[Any, str]:
    """A network as a run has it, in every process with the same attention, and the name of that; all call it.

    Args:
        size: of the network, a name in `network.SIZES`.
        attend_by: a name in `attention.BACKENDS`, or auto.
        folder: where the times of the backends are kept.
    """
    model: Any = random_model(size, dtype, device)
    heads = model.config.num_attention_heads, model.config.attention_head_dim
    choice = attention.choose(attend_by, str(device), *heads, dtype, folder / "attention.json") if ranks.leads else None
    backend, _ = ranks.agreed(choice)
    attention.use_backend(model, backend)
    if compiled:
        kernels.compile_blocks(model, lambda error: say(f"Rank {ranks.rank}: not compiled: {error}"))
    return model, backend


def differences(made: list[torch.Tensor], wanted: list[torch.Tensor]) -> tuple[float, float]:
    """Relative norms of what differs in results of `guided_step`: of the step, and the larger one of its passes."""
    guided, *passes = (float((one - other).norm() / other.norm()) for one, other in zip(made, wanted, strict=True))
    return float(f"{guided:.2g}"), float(f"{max(passes):.2g}")


def write_figures(
    folder: Path, bench: str, size: str, device: str, clip: tuple[int, int, int], rows: list[dict[str, Any]]
) -> None:
    """Write what `in_processes` returns."""
    pixels = "x".join(map(str, (clip[1], clip[0], clip[2])))
    facts = {"bench": bench, "size": size, "torch": torch.__version__, "device": device, "pixels": pixels}
    write_json(folder / "figures.json", {**facts, "rows": rows})


def _random_codec(size: str, device: torch.device) -> LatentCodec:
    """The VAE of a size of network, as a run has it on a device."""
    config = MODELS["tiny" if size == "tiny" else "published"]["wan_vae"]
    vae = make_fast(random_network(lambda: AutoencoderKLWan(**config), torch.float32, device))
    return LatentCodec(fit_device(vae, device))


def guided_step(model: Any, inputs: dict[str, Any], memories: list[SegmentMemory]) -> list[torch.Tensor]:
    """The flow with guidance, as `s2v.pipeline.denoise_segment` computes it, and those of its two passes."""
    passes = []
    for name, memory in zip(("cond", "uncond"), memories, strict=True):
        text = inputs["encoder_hidden_states"] * (1.0 if name == "cond" else 0.5)
        with model.cache_context(name):
            passes.append(model(**{**inputs, "encoder_hidden_states": text}, memory=memory, return_dict=False)[0])
    guided, unguided = (each.float() for each in passes)
    return [unguided + 4.5 * (guided - unguided), guided, unguided]
