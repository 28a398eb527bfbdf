"""What each network of a stage takes while it works: seconds, and memory beside the weights."""

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Call:
    """One call of a network.

    Attributes:
        seconds: that it computed.
        arrival_seconds: that its weights needed to come to the device before.
        weights_bytes: of all networks on the device meanwhile.
        beside_bytes: the most that was allocated beside them; None where the CPU computes.
        held_bytes: what was allocated before it computed, weights included.
    """

    seconds: float
    arrival_seconds: float
    weights_bytes: int
    beside_bytes: int | None
    held_bytes: int


class Watch:
    """Notes the calls of networks, of autoencoders by `encode` and `decode`.

    Make it before the networks are placed: hooks that move weights then lie around what is watched.

    Attributes:
        calls: by network, "vae.encode" and "vae.decode" for an autoencoder.
        peak_bytes: the most that was allocated since `begin`.
        reserved_bytes: the most that torch had taken from the GPU since then, gaps included.
    """

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        self._networks = dict(networks)
        self.calls: dict[str, list[Call]] = {}
        self.peak_bytes = self.reserved_bytes = 0
        self._called_at: dict[str, float] = {}
        for name, network in networks.items():
            if hasattr(network, "_decode"):
                for part in ("encode", "decode"):
                    # the public ones first bring the weights
                    self._note_arrival(network, part, f"{name}.{part}")
                    self._note_work(network, f"_{part}", f"{name}.{part}")
            else:
                network.register_forward_pre_hook(functools.partial(self._called, name))
                self._note_work(network, "forward", name)

    def begin(self) -> None:
        """Forget what was noted."""
        self.calls.clear()
        self.peak_bytes = self.reserved_bytes = 0
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def note_peak(self) -> None:
        """Bring `peak_bytes` and `reserved_bytes` up to now."""
        if torch.cuda.is_available():
            self.peak_bytes = max(self.peak_bytes, torch.cuda.max_memory_allocated())
            self.reserved_bytes = max(self.reserved_bytes, torch.cuda.max_memory_reserved())

    def _called(self, name: str, *_: Any) -> None:
        wait()
        self._called_at[name] = time.perf_counter()

    def _note_arrival(self, network: Any, method: str, name: str) -> None:
        inner = getattr(network, method)

        @functools.wraps(inner)
        def called(*args: Any, **kwargs: Any) -> Any:
            self._called(name)
            return inner(*args, **kwargs)

        setattr(network, method, called)

    def _note_work(self, network: Any, method: str, name: str) -> None:
        inner: Callable[..., Any] = getattr(network, method)

        @functools.wraps(inner)
        def work(*args: Any, **kwargs: Any) -> Any:
            wait()
            start = time.perf_counter()
            arrival = start - self._called_at.get(name, start)
            held = 0
            if torch.cuda.is_available():
                self.note_peak()
                torch.cuda.reset_peak_memory_stats()
                held = torch.cuda.memory_allocated()
            weights = self._weights_on_gpu()
            made = inner(*args, **kwargs)
            wait()
            seconds = time.perf_counter() - start
            beside = torch.cuda.max_memory_allocated() - weights if torch.cuda.is_available() else None
            self.calls.setdefault(name, []).append(Call(seconds, arrival, weights, beside, held))
            return made

        setattr(network, method, work)

    def _weights_on_gpu(self) -> int:
        return sum(
            tensor.nbytes
            for network in self._networks.values()
            for tensor in (*network.parameters(), *network.buffers())
            if tensor.is_cuda
        )


def wait() -> None:
    """Wait until the GPU has done what it was given; nothing where there is none."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
