"""Pinned main memory, in just the size that is asked for.

PyTorch's own pinned memory comes in powers of two, of which large weights would waste a third. So this is memory of the
system that is registered with the driver, and given up when no tensor lies in it any more.
"""

import mmap
import sys

import torch

from wanavatar_lab.errors import LabError

_PORTABLE = 1  # cudaHostRegisterPortable: pinned for every GPU of the process


def pinned_bytes(size: int) -> torch.Tensor:
    """Main memory [size] uint8, pinned where there is a GPU.

    Raises:
        LabError: the system does not let so much memory be pinned.
    """
    if not size or not torch.cuda.is_available():
        return torch.empty(size, dtype=torch.uint8)
    region = _Registered(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        region.madvise(mmap.MADV_HUGEPAGE)  # a page of 2 MiB is pinned as fast as one of 4 KiB
    memory = torch.frombuffer(region, dtype=torch.uint8)  # holds the region as long as any view of it is there
    code = int(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), size, _PORTABLE))
    if code:
        raise LabError(
            f"The system did not let {size / 1e9:.1f} GB of main memory be pinned (CUDA error {code}). Raise the limit "
            "of locked memory (ulimit -l), or set offload to none."
        )
    region.pointer = memory.data_ptr()
    return memory


class _Registered(mmap.mmap):
    """Memory of the system, pinned for CUDA until nothing refers to it any more."""

    pointer: int | None = None

    def __del__(self) -> None:
        # at the end of the process the system unpins everything, and torch may be gone
        if self.pointer is not None and not sys.is_finalizing():
            torch.cuda.synchronize()  # a copy may still be under way
            torch.cuda.cudart().cudaHostUnregister(self.pointer)
