"""Memory of a machine: of its GPUs and of the host. Torch is imported only to query a GPU."""

import re
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from wanavatar_lab.errors import LabError

# Bytes that a CUDA context and the libraries' workspaces take of an empty GPU: an estimate, for machines other than
# this one only. On a GPU of this machine the free memory is queried.
CONTEXT_BYTES = 600_000_000

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: as its driver gives it; None if not known.
        total: bytes of its memory.
        free: bytes that this process may use, including those that it already holds.
    """

    name: str | None
    total: int
    free: int


@dataclass(frozen=True)
class Machine:
    """Where a stage runs.

    Attributes:
        gpus: the one that computes first; empty where the CPU computes.
        host_free: bytes of free host memory; None to skip checking it, for weights that are already loaded.
    """

    gpus: tuple[Gpu, ...]
    host_free: int | None

    @property
    def gpus_alike(self) -> int:
        """How many GPUs are of the same model as the first."""
        return sum(gpu.name == self.gpus[0].name for gpu in self.gpus)


def this_machine(device: str, most: int | None = None) -> Machine:
    """The memory that is free on this machine now.

    Args:
        device: where stages compute: cpu, cuda or cuda:<n>. The other GPUs that torch sees come after it.
        most: how many GPUs to query, each of which then holds a CUDA context of this process; None for all.
    """
    if device.partition(":")[0] == "cpu":
        return Machine((), free_host_bytes())
    import torch

    gpus = []
    for index in gpu_numbers(device)[:most]:
        free, total = torch.cuda.mem_get_info(index)
        # memory that torch has reserved can be used again by the next stage
        free += torch.cuda.memory_reserved(index)
        # programs that share a GPU limit the fraction of it that this process may take
        allowed = int(total * torch.cuda.get_per_process_memory_fraction(index))
        gpus.append(Gpu(torch.cuda.get_device_name(index), min(total, allowed), min(free, allowed)))
    return Machine(tuple(gpus), free_host_bytes())


def gpus_of(device: str) -> tuple[Gpu, ...]:
    """All GPUs of this machine, that of `device` first, taken as free; none of the others gets a context by this call.

    Args:
        device: cpu, which has none, cuda or cuda:<n>.
    """
    gpus = this_machine(device, most=1).gpus
    if gpus:
        import torch

        others = map(torch.cuda.get_device_properties, gpu_numbers(device)[1:])
        gpus += tuple(Gpu(each.name, each.total_memory, each.total_memory - CONTEXT_BYTES) for each in others)
    return gpus


def gpu_numbers(device: str) -> list[int]:
    """The numbers of this machine's GPUs, that of `device` first.

    Raises:
        LabError: it is none of them.
    """
    import torch

    chosen, there = torch.device(device).index, torch.cuda.device_count()
    if (chosen or 0) >= there:
        raise LabError(
            f"The device is {device}; GPUs that torch sees: {there}. Set WANAVATAR_DEVICE to auto, or look with "
            "nvidia-smi whether the driver works."
        )
    chosen = torch.cuda.current_device() if chosen is None else chosen
    return [chosen, *(index for index in range(there) if index != chosen)]


def other_machine(gpu_bytes: int, gpus: int = 1, host_bytes: int | None = None, name: str | None = None) -> Machine:
    """A machine to plan for, all of whose memory is free.

    Args:
        gpu_bytes: of each GPU's memory.
        gpus: how many it has.
        host_bytes: free host memory; None for this machine's.
        name: of the GPUs.
    """
    gpu = Gpu(name, gpu_bytes, max(0, gpu_bytes - CONTEXT_BYTES))
    return Machine((gpu,) * gpus, free_host_bytes() if host_bytes is None else host_bytes)


def free_host_bytes() -> int:
    """Host memory that is available without swapping, in bytes; in a container no more than its limit leaves."""
    system = int(psutil.virtual_memory().available)
    limit, used = _CGROUP / "memory.max", _CGROUP / "memory.current"
    if not (limit.is_file() and used.is_file()) or limit.read_text().strip() == "max":
        return system
    # the page cache counts as used, though it is given back on demand
    statistics = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    container = int(limit.read_text()) - int(used.read_text()) + int(statistics.get("inactive_file", 0))
    return min(system, max(0, container))


def total_host_bytes() -> int:
    """Host memory of this machine, in bytes; in a container its limit."""
    limit = _CGROUP / "memory.max"
    container = limit.read_text().strip() if limit.is_file() else "max"
    total = int(psutil.virtual_memory().total)
    return total if container == "max" else min(total, int(container))


def peak_host_bytes() -> int:
    """The peak of this process's resident set."""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)):
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
