"""What memory there is: on the GPUs and in the machine. Torch is imported only to ask a GPU."""

from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

# what a CUDA context and the libraries' own workspaces take of an empty GPU, in bytes; an estimate for planning only:
# on a GPU that is there, what is free is asked
CONTEXT_BYTES = 600_000_000

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: as its driver calls it; None if nobody said.
        total: bytes of its memory.
        free: bytes that this process may use, what it holds already included.
    """

    name: str | None
    total: int
    free: int


@dataclass(frozen=True)
class Machine:
    """Where a stage is to run.

    Attributes:
        gpus: the one that computes first; empty where the CPU computes.
        host_free: bytes of main memory that are free; None where that is of no account, since the weights lie in it
            already.
    """

    gpus: tuple[Gpu, ...]
    host_free: int | None


def this_machine(device: str, most: int | None = None) -> Machine:
    """What is free here now.

    Args:
        device: where stages compute: cpu, cuda or cuda:<n>. The other GPUs that torch sees come after it.
        most: how many GPUs to look at, each of which then holds a CUDA context of this process; None for all.
    """
    if device.partition(":")[0] == "cpu":
        return Machine((), free_host_bytes())
    import torch

    chosen = torch.device(device).index
    chosen = torch.cuda.current_device() if chosen is None else chosen
    others = [index for index in range(torch.cuda.device_count()) if index != chosen]
    return Machine(tuple(_gpu(index) for index in (chosen, *others)[:most]), free_host_bytes())


def other_machine(gpu_bytes: int, gpus: int = 1, host_bytes: int | None = None, name: str | None = None) -> Machine:
    """A machine that is not this one, its memory free.

    Args:
        gpu_bytes: of each GPU's memory.
        gpus: how many it has.
        host_bytes: free main memory; None for what is free here.
        name: of the GPUs.
    """
    gpu = Gpu(name, gpu_bytes, max(0, gpu_bytes - CONTEXT_BYTES))
    return Machine((gpu,) * gpus, free_host_bytes() if host_bytes is None else host_bytes)


def free_host_bytes() -> int:
    """Main memory that can be had without swapping, in bytes; in a container no more than it may still take."""
    return min(_system_free(), _container_free())


def _system_free() -> int:
    return int(psutil.virtual_memory().available)


def _container_free() -> int:
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if not (limit.is_file() and used.is_file()) or limit.read_text().strip() == "max":
        return _system_free()
    # files that were read are counted as used, and given back when memory is wanted
    statistics = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    return max(0, int(limit.read_text()) - int(used.read_text()) + int(statistics.get("inactive_file", 0)))


def _gpu(index: int) -> Gpu:
    import torch

    free, total = torch.cuda.mem_get_info(index)
    # torch keeps what it was given once; a stage that makes room gives it to the next one
    free += torch.cuda.memory_reserved(index)
    # whoever shares a GPU limits the fraction of it that this process may take
    allowed = int(total * torch.cuda.get_per_process_memory_fraction(index))
    return Gpu(torch.cuda.get_device_name(index), min(total, allowed), min(free, allowed))
