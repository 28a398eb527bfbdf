"""Seconds of each call of a network, the GPU memory it takes beside the weights, and the clock and power of a GPU.

Progress lines of the benches too.
"""

import functools
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_POWER_CAP = 0x4  # of nvidia-smi's reasons for a lower clock: the software's power limit


@dataclass(frozen=True)
class Call:
    """One call of a network.

    Attributes:
        seconds: that it computed.
        arrival_seconds: that its weights took before to come to the device.
        weights_bytes: of all networks on the device meanwhile.
        beside_bytes: the most that was in use beside them; None where the CPU computes.
        held_bytes: allocated before it computed, weights included.
    """

    seconds: float
    arrival_seconds: float
    weights_bytes: int
    beside_bytes: int | None
    held_bytes: int


class Watch:
    """Records the calls of networks, of autoencoders those of `encode` and `decode`.

    Make it before offloading is applied, so that hooks that move weights are outside of what is recorded.

    Attributes:
        calls: by network, "vae.encode" and "vae.decode" for an autoencoder.
        peak_bytes: the most that was in use since `begin`: allocated, or freed and still read by another stream.
        reserved_bytes: the most that torch had reserved on the GPU since then, gaps included.
    """

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        self._networks = dict(networks)
        self.calls: dict[str, list[Call]] = {}
        self.peak_bytes = self.reserved_bytes = 0
        self._called_at: dict[str, float] = {}
        for name, network in networks.items():
            if hasattr(network, "_decode"):
                for part in ("encode", "decode"):
                    # the public methods wait for the weights, those with an underscore compute
                    self._record_arrival(network, part, f"{name}.{part}")
                    self._record_call(network, f"_{part}", f"{name}.{part}")
            else:
                network.register_forward_pre_hook(functools.partial(self._note_time, name))
                self._record_call(network, "forward", name)

    def begin(self) -> None:
        """Forget all records."""
        self.calls.clear()
        self.peak_bytes = self.reserved_bytes = 0
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def update_peak(self) -> None:
        """Bring `peak_bytes` and `reserved_bytes` up to date."""
        if torch.cuda.is_available():
            self.peak_bytes = max(self.peak_bytes, _peak_bytes())
            self.reserved_bytes = max(self.reserved_bytes, torch.cuda.max_memory_reserved())

    def _note_time(self, name: str, *_: Any) -> None:
        synchronize()
        self._called_at[name] = time.perf_counter()

    def _record_arrival(self, network: Any, method: str, name: str) -> None:
        inner = getattr(network, method)

        @functools.wraps(inner)
        def called(*args: Any, **kwargs: Any) -> Any:
            self._note_time(name)
            return inner(*args, **kwargs)

        setattr(network, method, called)

    def _record_call(self, network: Any, method: str, name: str) -> None:
        inner: Callable[..., Any] = getattr(network, method)

        @functools.wraps(inner)
        def recorded(*args: Any, **kwargs: Any) -> Any:
            synchronize()
            start = time.perf_counter()
            arrival = start - self._called_at.get(name, start)
            on_gpu, held = torch.cuda.is_available(), 0
            if on_gpu:
                self.update_peak()
                torch.cuda.reset_peak_memory_stats()
                held = torch.cuda.memory_allocated()
            modules = self._networks.values()
            tensors = (tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))
            weights = sum(tensor.nbytes for tensor in tensors if tensor.is_cuda)
            made = inner(*args, **kwargs)
            synchronize()
            seconds = time.perf_counter() - start
            beside = _peak_bytes() - weights if on_gpu else None
            self.calls.setdefault(name, []).append(Call(seconds, arrival, weights, beside, held))
            return made

        setattr(network, method, recorded)


def _peak_bytes() -> int:
    # max_memory_allocated leaves out what was freed and waits for another stream, with record_stream 4 of 14 GB
    return int(torch.cuda.memory_stats().get("active_bytes.all.peak", 0))


def median_seconds(call: Callable[[], Any], warm_up: int, repeats: int) -> float:
    """Median seconds of `repeats` calls after `warm_up` calls, until the device has finished each."""
    times = []
    for _ in range(warm_up + repeats):
        synchronize()
        start = time.perf_counter()
        call()
        synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[warm_up:])


@contextmanager
def clock_and_power(device: torch.device) -> Iterator[dict[str, float]]:
    """What a GPU does meanwhile, by nvidia-smi five times a second.

    Yields:
        A dict that has, when the block has ended, the means `clock_mhz` of the multiprocessors and `power_w`, and
        `power_capped`, the share of time in which the driver lowered the clock for the power limit. Empty without an
        NVIDIA GPU or nvidia-smi.
    """
    found: dict[str, float] = {}
    program = shutil.which("nvidia-smi") if device.type == "cuda" else None
    if program is None:
        yield found
        return
    query = "--query-gpu=clocks.sm,power.draw.instant,clocks_event_reasons.active"
    own = f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}"
    command = [program, query, own, "--format=csv,noheader,nounits", "--loop-ms=200"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield found
        finally:
            process.terminate()
            printed, _ = process.communicate()
    found.update(read_clocks(printed))


def read_clocks(printed: str) -> dict[str, float]:
    """The means of what nvidia-smi has printed for `clock_and_power`, without lines that are cut or have no figures."""
    samples = []
    for line in printed.splitlines():
        with suppress(ValueError):  # [N/A], or the last line
            clock, power, reasons = line.split(",")
            samples.append((float(clock), float(power), bool(int(reasons, 16) & _POWER_CAP)))
    if not samples:
        return {}
    clocks, powers, capped = (statistics.mean(each) for each in zip(*samples, strict=True))
    return {"clock_mhz": round(clocks), "power_w": round(powers), "power_capped": round(capped, 2)}


def synchronize() -> None:
    """Wait until the GPU has finished; nothing where there is none."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def say(line: str) -> None:
    """Print a line of progress to standard error, since standard output is for figures."""
    print(line, file=sys.stderr, flush=True)
