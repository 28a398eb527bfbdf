"""Large tensors of the forward pass that wait in the host's memory until the backward pass wants them.

They go there on a stream of their own while the GPU computes on. On the way back they are wanted in the opposite order,
so that those before are fetched while the one that was asked for is used.
"""

import functools
import weakref
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

LEAST_BYTES = 64 << 20  # smaller ones stay where they are
AHEAD = 2  # tensors that are fetched before they are asked for: a block keeps as many

_Layout = tuple[torch.Size, tuple[int, ...], torch.dtype]


class HostMemory:
    """Pinned buffers, used again in every step.

    Args:
        least_bytes: of a tensor that is moved; None for `LEAST_BYTES`.
    """

    def __init__(self, least_bytes: int | None = None) -> None:
        self._least = LEAST_BYTES if least_bytes is None else least_bytes
        self._free: dict[_Layout, list[Tensor]] = {}
        self._stream: torch.cuda.Stream | None = None
        self._newest: weakref.ref[_Away] | None = None

    def hooks(self, resident: Iterable[Tensor] = ()) -> AbstractContextManager[None]:
        """Within it, what autograd saves goes to the host.

        Args:
            resident: tensors whose memory is on the device anyway, weights for example: these are not moved.
        """
        stay = {tensor.untyped_storage().data_ptr() for tensor in resident}
        made: AbstractContextManager[None] = torch.autograd.graph.saved_tensors_hooks(
            functools.partial(self._leave, stay), self._return
        )
        return made

    def _leave(self, stay: set[int], tensor: Tensor) -> Any:
        small = tensor.nbytes < self._least or not _is_dense(tensor)
        if small or tensor.untyped_storage().data_ptr() in stay:
            return tensor
        away = _Away(self, tensor, self._newest)
        self._newest = weakref.ref(away)
        return away

    def _return(self, kept: Any) -> Tensor:
        if not isinstance(kept, _Away):
            tensor: Tensor = kept
            return tensor
        return kept.back()

    def _buffer(self, tensor: Tensor) -> Tensor:
        free = self._free.setdefault(_layout(tensor), [])
        if free:
            return free.pop()
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, pin_memory=tensor.is_cuda)

    def _side(self, device: torch.device) -> torch.cuda.Stream | None:
        if device.type == "cuda" and self._stream is None:
            self._stream = torch.cuda.Stream(device)
        return self._stream


class _Away:
    """One tensor on the host."""

    def __init__(self, memory: HostMemory, tensor: Tensor, before: "weakref.ref[_Away] | None") -> None:
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
        """Begin to bring it back, unless that was begun."""
        if self.buffer is None:
            return
        side = self.memory._side(self.device)
        shape, strides, dtype = _layout(self.buffer)
        self.fetched = torch.empty_strided(shape, strides, dtype=dtype, device=self.device)
        if side is None:
            self.fetched.copy_(self.buffer)
        else:
            # what had this memory before may still be in use
            side.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(side):
                self.fetched.copy_(self.buffer, non_blocking=True)
            self.done = side.record_event()
        # the next tensor goes into this buffer by the same stream, hence after this one has left it
        self.memory._free[_layout(self.buffer)].append(self.buffer)
        self.buffer = None

    def back(self) -> Tensor:
        """It, on its device; once only.

        Raises:
            RuntimeError: a backward pass has had it already.
        """
        self.fetch()
        if self.fetched is None:
            raise RuntimeError("What waits in the host's memory comes back once: there cannot be two backward passes.")
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
    # the kernels of the backward pass count on the strides that they know
    return tensor.shape, tensor.stride(), tensor.dtype


def _is_dense(tensor: Tensor) -> bool:
    """Whether it fills the memory that it spans."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((size - 1) * stride for size, stride in steps) == tensor.numel()
