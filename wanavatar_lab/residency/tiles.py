"""Autoencoders that work in tiles, so that what they need grows with a tile and not with the picture.

The tiles are diffusers' own: they overlap, and are blended into each other where they do. No torch is needed here.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tiles:
    """Squares of `side` pixels, one every `stride` pixels."""

    side: int
    stride: int

    def widths(self, length: int) -> tuple[int, ...]:
        """Pixels of each tile along a side of `length` pixels."""
        return tuple(min(self.side, length - start) for start in range(0, length, self.stride))

    def overlap(self, width: int, height: int) -> float:
        """Pixels of all tiles by those of the picture, at least 1."""
        if max(width, height) <= self.side:
            return 1.0
        return sum(self.widths(width)) * sum(self.widths(height)) / (width * height)


WAN_TILES = Tiles(256, 192)
# twice as wide: its norms are taken over whole groups of channels, so that small tiles differ in brightness
FLUX_TILES = Tiles(512, 384)


def tiles_of(stage: str) -> Tiles:
    """The tiles of a stage's autoencoder."""
    return FLUX_TILES if stage == "text_to_image" else WAN_TILES


def set_tiling(vae: Any, tiled: bool) -> None:
    """Let an autoencoder of diffusers encode and decode in tiles, or whole.

    Args:
        vae: Wan's or FLUX's.
        tiled: whether to; pictures no larger than a tile are whole either way.
    """
    if not tiled:
        vae.disable_tiling()
    elif hasattr(vae, "tile_sample_stride_height"):
        vae.enable_tiling(WAN_TILES.side, WAN_TILES.side, WAN_TILES.stride, WAN_TILES.stride)
    else:
        vae.enable_tiling()
        # FLUX's takes them from its config, whose picture is as large as what is made
        shrink = 2 ** (len(vae.config.block_out_channels) - 1)
        vae.tile_sample_min_size, vae.tile_latent_min_size = FLUX_TILES.side, FLUX_TILES.side // shrink
        vae.tile_overlap_factor = 1 - FLUX_TILES.stride / FLUX_TILES.side
