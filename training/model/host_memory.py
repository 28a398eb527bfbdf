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

from wanavatar_lab.memory.pinned import pinned_bytes

LEAST_BYTES = 64 << 20  # smaller tensors stay: together they are little, and each copy has a fixed cost
AHEAD = 2  # tensors to prefetch: a block keeps its input and its attention output


class HostMemory:
    """Pinned buffers in CPU RAM, reused in every step and for samples of every shape.

    All buffers have the size of the largest tensor so far, and a tensor of any shape takes any of them: the memory
    is what the largest sample needs, however many shapes there are.

    Args:
        least_bytes: smallest tensor that is offloaded; None for `LEAST_BYTES`.
    """

    def __init__(self, least_bytes: int | None = None) -> None:
        self._least = LEAST_BYTES if least_bytes is None else least_bytes
        self._free: list[Tensor] = []
        self._largest = 0
        self._in_use = 0
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

    @property
    def nbytes(self) -> int:
        """Of all buffers."""
        return self._in_use + sum(buffer.nbytes for buffer in self._free)

    def _buffer(self, tensor: Tensor) -> Tensor:
        """Bytes, as many as the tensor has or more."""
        if tensor.nbytes > self._largest:
            # smaller buffers cannot serve this tensor, and those of the next samples can be as large
            self._largest = tensor.nbytes
            self._free.clear()
        buffer = self._free.pop() if self._free else pinned_bytes(self._largest)
        self._in_use += buffer.nbytes
        return buffer

    def _give_back(self, buffer: Tensor) -> None:
        self._in_use -= buffer.nbytes
        if buffer.nbytes == self._largest:
            self._free.append(buffer)

    def _side(self, device: torch.device) -> torch.cuda.Stream | None:
        if device.type == "cuda" and self._stream is None:
            self._stream = torch.cuda.Stream(device)
        return self._stream


class _Offloaded:
    """One tensor in CPU RAM, and the one that was offloaded before it."""

    def __init__(self, memory: HostMemory, tensor: Tensor, before: "weakref.ref[_Offloaded] | None") -> None:
        self.memory, self.device, self.before = memory, tensor.device, before
        # kernels of the backward pass expect the strides of the forward pass
        self.layout = tensor.shape, tensor.stride(), tensor.dtype
        self.buffer: Tensor | None = memory._buffer(tensor)
        self.fetched: Tensor | None = None
        self.done: torch.cuda.Event | None = None
        side = memory._side(tensor.device)
        host = self._view(self.buffer)
        if side is None:
            host.copy_(tensor)
            return
        side.wait_stream(torch.cuda.current_stream(tensor.device))
        with torch.cuda.stream(side):
            host.copy_(tensor, non_blocking=True)
        tensor.record_stream(side)

    def __del__(self) -> None:
        if self.buffer is not None:  # no backward pass used it
            self.memory._give_back(self.buffer)

    def fetch(self) -> None:
        """Start to copy it back, once."""
        if self.buffer is None:
            return
        side, host = self.memory._side(self.device), self._view(self.buffer)
        shape, strides, dtype = self.layout
        self.fetched = torch.empty_strided(shape, strides, dtype=dtype, device=self.device)
        if side is None:
            self.fetched.copy_(host)
        else:
            # work in the current stream may still read what had this memory before
            side.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(side):
                self.fetched.copy_(host, non_blocking=True)
            self.done = side.record_event()
        # the next tensor is copied into this buffer in the same stream, hence after this copy
        self.memory._give_back(self.buffer)
        self.buffer = None

    def _view(self, buffer: Tensor) -> Tensor:
        shape, strides, dtype = self.layout
        size = dtype.itemsize * shape.numel()
        return buffer[:size].view(dtype).as_strided(shape, strides)

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
