"""How much the flow of a step differs where several processes share it, measured on one GPU, or on a CPU.

The processes compute what several GPUs compute, by the same kernels, and what they exchange goes through main memory:
how fast they are says nothing.
"""

import gc
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import FileStore  # type: ignore[attr-defined]

from wanavatar_lab.bench.network import check_memory, random_inputs, random_model
from wanavatar_lab.bench.ranks import TIMEOUT, differences, guided_step, in_processes, network_of, write_figures
from wanavatar_lab.bench.watch import say
from wanavatar_lab.errors import LabError
from wanavatar_lab.runs.ranks import ALONE, Layout, Ranks
from wanavatar_lab.s2v import SegmentMemory
from wanavatar_lab.wan import attention
from wanavatar_lab.wan.context_parallel import join, leave, share, unshare
from wanavatar_lab.worker.rank_group import threads_of


def measure_rounding(
    size: str,
    clip: tuple[int, int, int],
    device: str,
    world: int,
    *,
    attend_by: str = "auto",
    compiled: bool,
    exact: bool,
) -> dict[str, Any]:
    """The flow of a step with guidance, by one process and by several that share the sequence.

    Args:
        size: of the network, a name in `network.SIZES`.
        clip: height, width and frames.
        device: cpu or cuda; the first GPU holds the network of every process.
        world: how many processes.
        attend_by: a name in `attention.BACKENDS`, or auto; it decides how a sequence is shared.
        compiled: whether blocks are compiled.
        exact: whether the passes are computed in float32 too, which takes a minute or two on a GPU.

    Returns:
        The device, and `rows`, that of one process first: `difference` of the guided flow from one process's,
        `pass_difference`, the larger one of the two passes, and with `exact` as `error` and `pass_error` the same from
        float32's. All are norms of what differs, relative to the norm of what it is compared with.

    Raises:
        LabError: the backend does not compute on the device, main memory does not hold the networks, or a process has
            failed.
    """
    if why_not := attention.lacks(device).get(attend_by):
        raise LabError(f"Attention by {attend_by}: {why_not}. Give auto, {', '.join(attention.available(device))}.")
    check_memory(size, torch.device(device), world)
    figures: dict[str, Any] = in_processes(_run, world, size, clip, device, attend_by, compiled, exact)
    return figures


@torch.no_grad()
def _run(
    rank: int,
    world: int,
    size: str,
    clip: tuple[int, int, int],
    device: str,
    attend_by: str,
    compiled: bool,
    exact: bool,
    folder: Path,
) -> None:
    own, ranks = torch.device("cpu" if device == "cpu" else "cuda:0"), Ranks(rank, world)
    if own.type == "cpu":
        torch.set_num_threads(threads_of(world))
    join(ranks, FileStore(str(folder / "meeting"), world), str(own), TIMEOUT, ThroughMainMemory.register())
    dtype = torch.bfloat16 if own.type == "cuda" else torch.float32
    truth = _in_float32(size, clip, own, dtype) if exact and ranks.leads else []
    ranks.agreed(None)  # before the others take memory
    model, backend = network_of(ranks, size, dtype, own, attend_by, folder, compiled=compiled)
    inputs = random_inputs(model, *clip, own, dtype)
    rows: list[dict[str, Any]] = []
    wanted: list[torch.Tensor] = []
    for layout in (ALONE, Layout(1, world)):
        if ranks.leads:
            say(f"{layout} …")
        if layout != ALONE:
            share([model], ranks, layout)
        made = guided_step(model, inputs, [SegmentMemory(), SegmentMemory()])
        unshare([model])
        wanted = wanted or made
        row: dict[str, Any] = {"processes": layout.world, "attention": backend, "compiled": compiled}
        row["difference"], row["pass_difference"] = differences(made, wanted)
        if truth:
            row["error"], row["pass_error"] = differences([each.cpu() for each in made], truth)
        rows.append(row)
    if ranks.leads:
        name = torch.cuda.get_device_name(own) if own.type == "cuda" else "cpu"
        write_figures(folder, "rounding", size, name, clip, rows)
    leave()


def _in_float32(size: str, clip: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> list[torch.Tensor]:
    """What `guided_step` gives with the same weights and inputs, both rounded to `dtype`, on the CPU."""
    say("in float32 …")
    model = random_model(size, dtype, device)
    inputs = random_inputs(model, *clip, device, dtype)
    model = model.float()
    inputs = {name: value.float() for name, value in inputs.items()}
    made = [each.cpu() for each in guided_step(model, inputs, [SegmentMemory(), SegmentMemory()])]
    del model, inputs
    gc.collect()  # a network and its hooks refer to each other
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return made


class ThroughMainMemory(dist.ProcessGroup):
    """Processes on one GPU, which NCCL does not connect: what they exchange goes through main memory, by gloo.

    It has what `wan.context_parallel` calls for a sequence. Arguments are those of a backend of torch.distributed.
    """

    NAME = "main_memory"

    def __init__(self, store: Any, rank: int, size: int, timeout: timedelta) -> None:
        super().__init__(rank, size)
        self._gloo: Any = dist.ProcessGroupGloo(store, rank, size, timeout)

    @classmethod
    def register(cls) -> str:
        """Make it known to torch.distributed in this process; gives the name of the backend."""
        dist.Backend.register_backend(cls.NAME, cls, devices=["cpu", "cuda"])
        return cls.NAME

    def getBackendName(self) -> str:
        return self.NAME

    def _get_backend(self, device: torch.device) -> Any:
        return self  # asked whether it sends many tensors at once

    def send(self, tensors: list[torch.Tensor], target: int, tag: int) -> Any:
        return self._exchange(lambda parts: self._gloo.send(parts, target, tag), tensors, [])

    def recv(self, tensors: list[torch.Tensor], source: int, tag: int) -> Any:
        return self._exchange(lambda parts: self._gloo.recv(parts, source, tag), tensors, tensors)

    def broadcast(self, tensors: Any, *options: Any) -> Any:
        return self._exchange(lambda parts: self._gloo.broadcast(parts, *options), tensors, tensors)

    def _allgather_base(self, output: torch.Tensor, input: torch.Tensor, opts: Any = None) -> Any:
        return self._exchange(lambda both: self._gloo._allgather_base(*both, opts), [output, input], [output])

    all_gather_single = _allgather_base  # its name in torch 2.15

    def _exchange(
        self, begin: Callable[[list[torch.Tensor]], Any], tensors: list[torch.Tensor], received: list[torch.Tensor]
    ) -> "_Works":
        parts = [tensor.cpu() for tensor in tensors]  # those on a CPU themselves
        return _Works(begin(parts), parts, list(zip(received, parts, strict=False)))


class _Works:
    """An exchange under way; it keeps in memory what is sent."""

    def __init__(self, work: Any, parts: list[torch.Tensor], arriving: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        self._work, self._parts, self._arriving = work, parts, arriving

    def wait(self) -> None:
        self._work.wait()
        for place, part in self._arriving:
            if place is not part:
                place.copy_(part)
