"""The least time that a part of a stage can take: its counted operations by the rates that this device reaches.

Three rates of computing are measured in the part's number format: of a large matrix product, of a large convolution,
and of self-attention over the part's own tokens by the fastest backend that is installed. The fourth is that of a copy
on the device. A part takes at least the sum of its operations by their rates, and no less than its weights take to be
read. Norms, activations, RoPE and copies count as nothing, so that no part reaches its floor.
"""

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from wanavatar_lab.bench.network import matrix_rate
from wanavatar_lab.bench.watch import median_seconds
from wanavatar_lab.wan import attention


class Operations(NamedTuple):
    """Floating-point operations by what computes them; a multiply-add counts as two."""

    products: float = 0.0
    attention: float = 0.0
    convolutions: float = 0.0

    def times(self, factor: float) -> "Operations":
        """Those of so many calls."""
        return Operations(*(factor * each for each in self))

    def plus(self, others: "Operations") -> "Operations":
        """Those of both."""
        return Operations(*(mine + theirs for mine, theirs in zip(self, others, strict=True)))

    def without(self, others: "Operations") -> "Operations":
        """Those that are not among others."""
        return self.plus(others.times(-1))


def counted(network: nn.Module, call: Callable[[Any], Any]) -> Operations:
    """The operations of a call, counted without computing anything.

    Args:
        network: of any size, on any device.
        call: gets a copy of it on the device meta, which has shapes and no numbers; its arguments have to be there too.
    """
    tensors = [*network.parameters(), *network.buffers()]
    # deepcopy takes these for copied already
    empty: dict[int, Any] = {id(tensor): tensor.to("meta") for tensor in tensors}
    for parameter in network.parameters():
        empty[id(parameter)] = nn.Parameter(empty[id(parameter)], requires_grad=False)
    hollow = copy.deepcopy(network, empty)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(hollow)
    found = {"products": 0.0, "attention": 0.0, "convolutions": 0.0}
    for operator, flops in counter.get_flop_counts()["Global"].items():
        name = str(operator)
        # linear layers are products of two matrices; batches of them are those of attention
        batched = "bmm" in name or "scaled_dot_product" in name
        found["convolutions" if "convolution" in name else "attention" if batched else "products"] += flops
    return Operations(**found)


class Ceilings:
    """The rates that a device reaches, each measured when it is first asked for.

    Attributes:
        measured: by name what was measured: `matrix` and `convolution` in operations per second by number format,
            `attention` by shape with the backend, and `copy` in bytes per second, read and written.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.measured: dict[str, Any] = {"matrix": {}, "convolution": {}, "attention": {}}

    def matrix(self, dtype: torch.dtype) -> float:
        """Operations per second of a large matrix product."""
        rates = self.measured["matrix"]
        if _name(dtype) not in rates:
            rates[_name(dtype)] = max(matrix_rate(self._device, dtype) for _ in range(3))
        return float(rates[_name(dtype)])

    @torch.no_grad()
    def convolution(self, dtype: torch.dtype) -> float:
        """Operations per second of a large convolution of 3×3, in the order of numbers that suits it better."""
        rates = self.measured["convolution"]
        if _name(dtype) not in rates:
            channels, side = (256, 256) if self._device.type == "cuda" else (64, 64)
            times = []
            for order in (torch.contiguous_format, torch.channels_last):
                kernel = torch.randn(channels, channels, 3, 3, device=self._device).to(dtype, memory_format=order)
                given = torch.randn(1, channels, side, side, device=self._device).to(dtype, memory_format=order)
                times.append(_least(lambda x=given, w=kernel: F.conv2d(x, w, padding=1)))  # type: ignore[misc]
            rates[_name(dtype)] = 2.0 * 9 * channels**2 * side**2 / min(times)
        return float(rates[_name(dtype)])

    @torch.no_grad()
    def attention(self, dtype: torch.dtype, tokens: int, heads: int, head_dim: int) -> float:
        """Operations per second of self-attention by the fastest backend that is installed and exact."""
        shape = f"{tokens}x{heads}x{head_dim} {_name(dtype)}"
        rates = self.measured["attention"]
        if shape not in rates:
            if self._device.type == "cuda":
                names = [name for name in attention.available(str(self._device)) if name in attention.EXACT]
                times = attention.measure(str(self._device), names, heads, head_dim, dtype, tokens)
            else:
                query, key, value = (torch.randn(1, tokens, heads, head_dim).to(dtype) for _ in range(3))
                times = {"sdpa": _least(lambda: dispatch_attention_fn(query, key, value))}
            backend = min(times, key=lambda name: times[name])
            rates[shape] = {"backend": backend, "rate": 4.0 * tokens**2 * heads * head_dim / times[backend]}
        return float(rates[shape]["rate"])

    def copy(self) -> float:
        """Bytes per second that a copy on the device reads and writes."""
        if "copy" not in self.measured:
            size = 1 << 30 if self._device.type == "cuda" else 1 << 26
            given = torch.ones(size, dtype=torch.uint8, device=self._device)
            made = torch.empty_like(given)
            self.measured["copy"] = 2 * size / _least(lambda: made.copy_(given))
        return float(self.measured["copy"])

    def floor(
        self,
        operations: Operations,
        dtype: torch.dtype,
        weights_bytes: int,
        shape: tuple[int, int, int] | None = None,
    ) -> float:
        """The least seconds.

        Args:
            operations: of the part.
            dtype: in which it computes.
            weights_bytes: that it reads.
            shape: tokens, heads and width of a head of its self-attention; None takes the rate of products for it.
        """
        rates = (
            self.matrix(dtype) if operations.products or operations.attention else 1.0,
            self.attention(dtype, *shape) if shape else self.matrix(dtype) if operations.attention else 1.0,
            self.convolution(dtype) if operations.convolutions else 1.0,
        )
        computing = sum(flops / rate for flops, rate in zip(operations, rates, strict=True))
        return max(computing, weights_bytes / self.copy())


def read_bytes(network: nn.Module) -> int:
    """Bytes of the weights that a call reads whole: those of embeddings are looked up."""
    looked_up = {id(each.weight) for each in network.modules() if isinstance(each, nn.Embedding)}
    return sum(each.nbytes for each in network.parameters() if id(each) not in looked_up)


def _least(call: Callable[[], Any]) -> float:
    """The least seconds of a call, since what others do on the machine can only make it longer."""
    return min(median_seconds(call, warm_up=2 * (number == 0), repeats=1) for number in range(7))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
