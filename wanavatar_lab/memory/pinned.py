"""Weights in pinned host memory, which come to a GPU at the rate of the link.

Inference does not change weights, so they are never copied back: a module that leaves the GPU points again to its copy
in host memory. What did change (adapters that were added, parameters that were written to) is found by PyTorch's
version counters and copied.

PyTorch's own pinned memory comes in powers of two, which would waste a third with large weights. So memory of the exact
size is registered with the CUDA driver, and unregistered when no tensor uses it any more.
"""

import mmap
import sys
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from wanavatar_lab.errors import LabError

PIECE_BYTES = 1 << 30  # host memory is pinned in pieces of about this size: a call per tensor would be slow
_ALIGNMENT = 256  # bytes; enough for a GPU's copy engine and for every number format
_HOST = torch.device("cpu")
_PORTABLE = 1  # cudaHostRegisterPortable: pinned for every GPU of the process


@dataclass
class _Home:
    """The host copy of a parameter or buffer, and the tensor's state when it last left for a GPU."""

    tensor: torch.Tensor
    host: torch.Tensor
    version: int = 0
    pointer: int = 0
    merged: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Weight:
    """A parameter or buffer.

    Attributes:
        tensor: itself; it stays the same object wherever its numbers are.
        cast: whether its layer is stored in 8 bits and upcast while it computes.
        merged: the adapters that PEFT has merged into it, which the version counter does not show.
    """

    tensor: torch.Tensor
    cast: bool
    merged: tuple[str, ...]


class PinnedWeights:
    """The weights of one module, with its buffers, tied weights once; made by `pinned`."""

    def __init__(self, module: nn.Module) -> None:
        # weak: `_PINNED` holds this object, which must not keep the module alive
        self._reference = weakref.ref(module)
        self._homes: dict[int, _Home] = {}  # by id of the tensor, which its home keeps alive

    @property
    def host_bytes(self) -> int:
        """Pinned host memory of the weights, in bytes."""
        return sum(home.host.nbytes for home in {home.host.data_ptr(): home for home in self._homes.values()}.values())

    def onload(self, device: torch.device | str) -> None:
        """Copy the weights that are not on a device to it, on its current stream and without waiting for the copy.

        Raises:
            LabError: the system does not allow so much memory to be pinned.
        """
        device = torch.empty(0, device=device).device  # with its number, where "cuda" stands for the current one
        moving = [weight for weight in self._found() if not self._is_there(weight, device)]
        self._settle([weight.tensor for weight in moving if not self._at_home(weight.tensor)])
        there: dict[tuple[Any, ...], torch.Tensor] = {}
        # a pipeline may be called in inference mode, whose tensors cannot be written to outside of it
        with torch.inference_mode(False), torch.no_grad():
            for weight in moving:
                tensor, home = weight.tensor, self._homes[id(weight.tensor)]
                key = _key(home.host)
                if key not in there:
                    there[key] = home.host.to(device, non_blocking=True, copy=True)
                tensor.data = there[key]
                home.version, home.pointer, home.merged = tensor._version, tensor.data_ptr(), weight.merged

    def offload(self) -> None:
        """Move all weights back to host memory, and copy those that changed since they left it.

        Raises:
            LabError: the system does not allow so much memory to be pinned.
        """
        found = self._found()
        with torch.inference_mode(False), torch.no_grad():
            self._settle([weight.tensor for weight in found if not self._is_as_it_left(weight)])
            for weight in found:
                weight.tensor.data = self._homes[id(weight.tensor)].host

    def forget(self) -> None:
        """Free the host memory, before the weights are stored in another number format."""
        self._homes.clear()

    def _found(self) -> list[_Weight]:
        """Every parameter and buffer once. Homes of those that are no longer in the module are freed."""
        module = self._reference()
        if module is None:
            raise ReferenceError("The module of these weights was deleted; call pinned() with another one.")
        layers = [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
        merged = {id(layer.get_base_layer()): tuple(layer.merged_adapters) for layer in layers}
        found = {
            id(tensor): _Weight(tensor, _is_cast(owner), merged.get(id(owner), ()))
            for owner in module.modules()
            for tensor in (*owner._parameters.values(), *owner._buffers.values())
            if tensor is not None
        }
        self._homes = {key: home for key, home in self._homes.items() if key in found}
        return list(found.values())

    def _is_there(self, weight: _Weight, device: torch.device) -> bool:
        if weight.tensor.device != device or self._at_home(weight.tensor):
            return False
        # on a GPU, a weight without a home gets one when it leaves
        return device.type != _HOST.type or self._is_as_it_left(weight)

    def _at_home(self, tensor: torch.Tensor) -> bool:
        home = self._homes.get(id(tensor))
        return home is not None and _key(tensor) == _key(home.host)

    def _is_as_it_left(self, weight: _Weight) -> bool:
        tensor, home = weight.tensor, self._homes.get(id(weight.tensor))
        if home is None or self._at_home(tensor):
            return home is not None
        if tensor._version != home.version or weight.merged != home.merged:
            return False
        # after it has computed, a layer in 8 bits has the same numbers in other memory
        moved = tensor.data_ptr() != home.pointer
        return tensor.dtype == home.host.dtype and tensor.shape == home.host.shape and (weight.cast or not moved)

    def _settle(self, tensors: list[torch.Tensor]) -> None:
        """Copy tensors to pinned host memory as their home; the tensors stay where they are."""
        by_key: dict[tuple[Any, ...], list[torch.Tensor]] = {}
        for tensor in tensors:
            by_key.setdefault(_key(tensor), []).append(tensor)
        for tied in _pieces(list(by_key.values())):
            sizes = [_aligned(same[0].nbytes) for same in tied]
            piece, offset = pinned_bytes(sum(sizes)), 0
            for same, size in zip(tied, sizes, strict=True):
                host = _view(piece[offset : offset + same[0].nbytes], same[0])
                host.copy_(same[0].detach())
                offset += size
                for tensor in same:
                    self._homes[id(tensor)] = _Home(tensor, host, tensor._version, tensor.data_ptr())
                    if tensor.device == _HOST:
                        # else the numbers would be in host memory twice
                        tensor.data = host


_PINNED: WeakKeyDictionary[nn.Module, PinnedWeights] = WeakKeyDictionary()


def pinned(module: nn.Module) -> PinnedWeights:
    """The pinned weights of a module, the same object at every call. Nothing is copied yet."""
    if module not in _PINNED:
        _PINNED[module] = PinnedWeights(module)
    return _PINNED[module]


def _key(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Equal for tensors that share their memory."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _is_cast(owner: nn.Module) -> bool:
    hooks = getattr(owner, "_diffusers_hook", None)
    return hooks is not None and hooks.get_hook("layerwise_casting") is not None


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _pieces(groups: list[list[torch.Tensor]]) -> Iterator[list[list[torch.Tensor]]]:
    """Tensors grouped by the piece of memory that they share; one larger than a piece has its own."""
    piece: list[list[torch.Tensor]] = []
    filled = 0
    for same in groups:
        if piece and filled + same[0].nbytes > PIECE_BYTES:
            yield piece
            piece, filled = [], 0
        piece.append(same)
        filled += _aligned(same[0].nbytes)
    if piece:
        yield piece


def _view(piece: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Bytes as a tensor of the shape, strides and dtype of another; contiguous where its strides have gaps."""
    if not piece.numel():
        return torch.empty_like(like, device=_HOST)
    return piece.view(like.dtype).as_strided(like.shape, torch.empty_like(like, device="meta").stride())


def pinned_bytes(size: int) -> torch.Tensor:
    """Host memory [size] uint8, pinned where there is a GPU.

    Raises:
        LabError: the system does not allow so much memory to be pinned.
    """
    if not size or not torch.cuda.is_available():
        return torch.empty(size, dtype=torch.uint8)
    region = _Registered(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        region.madvise(mmap.MADV_HUGEPAGE)  # a page of 2 MiB is pinned as fast as one of 4 KiB
    memory = torch.frombuffer(region, dtype=torch.uint8)  # keeps the region alive as long as there is a view of it
    code = int(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), size, _PORTABLE))
    if code:
        raise LabError(
            f"The system did not let {size / 1e9:.1f} GB of main memory be pinned (CUDA error {code}). Raise the limit "
            "of locked memory (ulimit -l), or set offload to none."
        )
    region.pointer = memory.data_ptr()
    return memory


class _Registered(mmap.mmap):
    """Host memory that is pinned for CUDA until nothing refers to it any more."""

    pointer: int | None = None

    def __del__(self) -> None:
        # at the end of the process the system unpins everything, and torch may be gone
        if self.pointer is not None and not sys.is_finalizing():
            torch.cuda.synchronize()  # a copy may still be running
            torch.cuda.cudart().cudaHostUnregister(self.pointer)
