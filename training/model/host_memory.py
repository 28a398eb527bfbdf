"""Offload large activations to CPU RAM in the forward pass, and prefetch them in the backward pass.

Copies run on a CUDA stream of their own while the GPU computes. The backward pass needs the tensors in reverse order,
so the ones before are prefetched while one is used.
"""

import functools
import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

LEAST_BYTES = 64 << 20  # smaller tensors stay: together they are little, and each copy has a fixed cost
AHEAD = 2  # tensors to prefetch: a block keeps its input and its attention output

_Layout = tuple[torch.Size, tuple[int, ...], torch.dtype]


class HostMemory:
    """Pinned buffers in CPU RAM, reused in every step.

    Args:
        least_bytes: smallest tensor that is offloaded; None for `LEAST_BYTES`.
    """

    def __init__(self, least_bytes: int | None = None) -> None:
        self._least = LEAST_BYTES if least_bytes is None else least_bytes
        self._free: dict[_Layout, list[Tensor]] = {}
        self._stream: torch.cuda.Stream | None = None
        self._newest: weakref.ref[_Offloaded] | None = None

    def hooks(self, resident: Iterable[Tensor] = ()) -> AbstractContextManager[None]:
        """Within it, tensors that autograd saves are offloaded.

        Args:
            resident: tensors that stay on the device anyway, weights for example.
        """
        stay = {tensor.untyped_storage().data_ptr() for tensor in resident}
        return torch.autograd.graph.saved_tensors_hooks(functools.partial(self._pack, stay), self._unpack)

    def _pack(self, stay: set[int], tensor: Tensor) -> Any:
        # elements that the tensor's memory spans: more than it has where it is a view with gaps, not worth a copy
        span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        if tensor.nbytes < self._least or span != tensor.numel() or tensor.untyped_storage().data_ptr() in stay:
            return tensor
        offloaded = _Offloaded(self, tensor, self._newest)
        self._newest = weakref.ref(offloaded)
        return offloaded

    def _unpack(self, packed: Any) -> Any:
        return packed.restore() if isinstance(packed, _Offloaded) else packed

    def _buffer(self, tensor: Tensor) -> Tensor:
        free = self._free.setdefault(_layout(tensor), [])
        if free:
            return free.pop()
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, pin_memory=tensor.is_cuda)

    def _side(self, device: torch.device) -> torch.cuda.Stream | None:
        if device.type == "cuda" and self._stream is None:
            self._stream = torch.cuda.Stream(device)
        return self._stream


class _Offloaded:
    """One tensor in CPU RAM, and the one that was offloaded before it."""

    def __init__(self, memory: HostMemory, tensor: Tensor, before: "weakref.ref[_Offloaded] | None") -> None:
        self.memory, self.device, self.before = memory, tensor.device, before
        self.buffer: Tensor | None = memory._buffer(tensor)
        self.fetched: Tensor | None = None
        self.done: torch.cuda.Event | None = None
        side = memory._side(tensor.device)
        if side is None:
            self.buffer.copy_(tensor)
            return
        side.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(side):
            self.buffer.copy_(tensor, non_blocking=True)
        tensor.record_stream(side)

    def fetch(self) -> None:
        """Start to copy it back, once."""
        if self.buffer is None:
            return
        side = self.memory._side(self.device)
        shape, strides, dtype = _layout(self.buffer)
        self.fetched = torch.empty_strided(shape, strides, dtype=dtype, device=self.device)
        if side is None:
            self.fetched.copy_(self.buffer)
        else:
            # work in the current stream may still read what had this memory before
            side.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(side):
                self.fetched.copy_(self.buffer, non_blocking=True)
            self.done = side.record_event()
        # the next tensor is copied into this buffer in the same stream, hence after this copy
        self.memory._free[_layout(self.buffer)].append(self.buffer)
        self.buffer = None

    def restore(self) -> Tensor:
        """The tensor on its device.

        Raises:
            RuntimeError: it was restored before.
        """
        self.fetch()
        if self.fetched is None:
            raise RuntimeError("Offloaded tensors are restored once: there cannot be two backward passes.")
        tensor, self.fetched = self.fetched, None
        if self.done is not None:
            torch.cuda.current_stream(self.device).wait_event(self.done)
        earlier = self
        for _ in range(AHEAD):
            found = earlier.before() if earlier.before is not None else None
            if found is None:
                break
            found.fetch()
            earlier = found
        return tensor


def _layout(tensor: Tensor) -> _Layout:
    # kernels of the backward pass expect the strides of the forward pass
    return tensor.shape, tensor.stride(), tensor.dtype
