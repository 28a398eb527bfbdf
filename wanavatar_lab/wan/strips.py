"""A decoder of pictures whose columns several processes share.

Each computes a strip of every picture. A convolution gets the columns beside its strip from the other processes, and
attention the whole picture, so that the result is what one process computes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_wan import WanAttentionBlock
from torch import Tensor, nn

from wanavatar_lab.runs.ranks import Ranks
from wanavatar_lab.wan.context_parallel import gathered


@dataclass(frozen=True)
class Strip:
    """The columns of a process.

    Attributes:
        ranks: of the processes, all of which have joined (`context_parallel.join`) and compute the same pictures.
        columns: of each of them, in the coarsest pictures; 1 or more.
    """

    ranks: Ranks
    columns: tuple[int, ...]

    def part(self, whole: Tensor) -> Tensor:
        """The own columns of [..., W], W a multiple of the sum of `columns`."""
        scale = whole.shape[-1] // sum(self.columns)
        return whole.split([scale * each for each in self.columns], dim=-1)[self.ranks.rank]

    def whole(self, part: Tensor) -> Tensor:
        """All columns [..., W] of the own ones; all processes call it."""
        own = self.columns[self.ranks.rank]
        sizes = [part.shape[-1] // own * each for each in self.columns]
        return gathered(part, sizes, -1)

    def with_edges(self, part: Tensor, count: int) -> Tensor:
        """The own columns with `count` more on either side, zeros beyond the picture; all processes call it."""
        rank, world, width = self.ranks.rank, self.ranks.world, part.shape[-1]
        own = torch.cat([part[..., :count], part[..., -count:]], dim=-1)
        edges = gathered(own, [2 * count] * world, -1).split(2 * count, dim=-1)
        # padded, and not joined, so that channels that are innermost in memory stay so
        wider = F.pad(part, (count, count))
        if rank:
            wider[..., :count] = edges[rank - 1][..., count:]
        if rank + 1 < world:
            wider[..., count + width :] = edges[rank + 1][..., :count]
        return wider


class StripConv2d(nn.Conv2d):
    """A convolution of pictures, or of a strip of them where `strip` is set."""

    strip: Strip | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, C', H', W']."""
        if self.strip is None:
            return super().forward(x)
        height, width = map(int, self.padding)
        return F.conv2d(self.strip.with_edges(x, width), self.weight, self.bias, self.stride, (height, 0))


class StripAttentionBlock(WanAttentionBlock):
    """Attention in a picture, whole also where only a strip of it comes and `strip` is set."""

    strip: Strip | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, F, H, W] -> the same shape."""
        if self.strip is None:
            made: Tensor = super().forward(x)
            return made
        return self.strip.part(super().forward(self.strip.whole(x)))


@contextmanager
def in_strips(decoder: nn.Module, strip: Strip | None) -> Iterator[None]:
    """Let all layers of a decoder that have a `strip` compute that of a picture until the block ends."""
    layers: list[Any] = [module for module in decoder.modules() if hasattr(module, "strip")]
    for layer in layers:
        layer.strip = strip
    try:
        yield
    finally:
        for layer in layers:
            layer.strip = None
