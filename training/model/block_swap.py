"""Block swap: the frozen weights of some blocks are in CPU RAM, and on the GPU only while their block computes.

Blocks compute one after the other, forwards and, where activations are recomputed, backwards in the reverse order. The
next block's weights are copied, on a CUDA stream of their own, while one block computes. Weights that are trained stay
on the GPU. The GPU then holds the frozen weights of two swapped blocks at a time.

A swapped weight stays the same tensor: only its storage is emptied and filled again, so that what autograd or a
compiled block has saved of it sees the numbers again.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wanavatar_lab.memory.pinned import pinned_bytes

_ALIGNMENT = 256  # bytes, between the weights of a block in CPU RAM


class BlockSwap:
    """The swapped blocks of one network.

    Args:
        blocks: in the order in which they compute, on their device; `store` moves them to CPU RAM.
        device: on which they compute.
    """

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device) -> None:
        self._device = device
        self._blocks = {block: _Swapped() for block in blocks}
        self._order = list(blocks)
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __contains__(self, block: nn.Module) -> bool:
        return block in self._blocks

    @property
    def host_bytes(self) -> int:
        """CPU RAM of the stored weights."""
        return sum(swapped.host.nbytes for swapped in self._blocks.values() if swapped.host is not None)

    def store(self, block: nn.Module) -> None:
        """Move the frozen weights and buffers of a block to CPU RAM. Call it once, when they have their last dtype."""
        swapped = self._blocks[block]
        found = {id(tensor): tensor for tensor in (*block.parameters(), *block.buffers()) if not tensor.requires_grad}
        swapped.weights = [tensor for tensor in found.values() if tensor.numel()]
        sizes = [-(-weight.nbytes // _ALIGNMENT) * _ALIGNMENT for weight in swapped.weights]
        swapped.host, offset = pinned_bytes(sum(sizes)), 0
        for weight, size in zip(swapped.weights, sizes, strict=True):
            # a storage of its own, of exactly this size
            weight.data = weight.detach().to(self._device, copy=True).contiguous()
            share = swapped.host[offset : offset + weight.nbytes]
            share.copy_(_bytes_of(weight))
            swapped.shares.append(share)
            offset += size
        self._release(swapped)

    def onload(self, block: nn.Module, backward: bool = False) -> None:
        """Have the weights of a block on the device for what computes next, and start to copy the next block's.

        Args:
            backward: the blocks compute in the reverse order.
        """
        if block not in self._blocks:
            return
        following = self._order.index(block) + (-1 if backward else 1)
        wanted = [block, *(self._order[following : following + 1] if following >= 0 else [])]
        for other, swapped in self._blocks.items():
            if swapped.on_device and other not in wanted:
                self._release(swapped)
        for each in wanted:
            self._fetch(self._blocks[each])
        self._wait(self._blocks[block])

    def _fetch(self, swapped: "_Swapped") -> None:
        if swapped.on_device:
            return
        swapped.on_device = True
        for weight, share in zip(swapped.weights, swapped.shares, strict=True):
            weight.untyped_storage().resize_(share.nbytes)
        if self._stream is not None:
            # what had this memory before may still be read in the current stream
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            for weight, share in zip(swapped.weights, swapped.shares, strict=True):
                # through another tensor: autograd refuses a saved one whose version counter has changed
                _bytes_of(weight).copy_(share, non_blocking=True)
        swapped.done = self._stream.record_event() if self._stream is not None else None

    def _wait(self, swapped: "_Swapped") -> None:
        if swapped.done is not None:
            torch.cuda.current_stream(self._device).wait_event(swapped.done)
            swapped.done = None

    def _release(self, swapped: "_Swapped") -> None:
        self._wait(swapped)  # the allocator may give the memory to what computes next in the current stream
        for weight in swapped.weights:
            weight.untyped_storage().resize_(0)
        swapped.on_device = False


class _Swapped:
    """The frozen weights of a block: on the device, and their bytes in CPU RAM."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.shares: list[Tensor] = []
        self.host: Tensor | None = None
        self.on_device = False
        self.done: torch.cuda.Event | None = None


def _bytes_of(weight: Tensor) -> Tensor:
    """The storage of a weight as a tensor of its own."""
    storage = weight.untyped_storage()
    return torch.empty(0, dtype=torch.uint8, device=weight.device).set_(storage, 0, (storage.nbytes(),), (1,))
