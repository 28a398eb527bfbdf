"""How fast a GPU takes what lies in pinned main memory."""

import time

import torch


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
