"""GPU memory that a stage's networks need beside their weights while they run, in bytes, and the tiles that limit it.

A pass of a transformer needs a multiple of its hidden states [tokens, width], decoding a multiple of the decoder's
finest feature maps. `FACTORS` holds these multiples, which were measured: activations.toml.

Tiles are diffusers' own, which overlap and are blended. With them the need of an autoencoder grows with a tile instead
of with the picture.

No torch is imported.
"""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanavatar_lab.memory.components import DENOISERS, Component
from wanavatar_lab.memory.workload import LATENT_FRAMES, TEXT_TOKENS, Workload

FACTORS: dict[str, float] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))

_UPSCALE_OVERLAP = 20  # pixels that an upscaler's tile is wider and higher than requested
_SPEECH_POSITIONS = 8192  # of text, recording and speech together, for which VoxCPM2 keeps keys and values
_RECORDING_SAMPLES = 15 * 16_000  # the longest recording to speak like
_MOTION_FRAMES = 73  # frames that speech to video decodes again before a segment's own


@dataclass(frozen=True)
class Need:
    """Memory of a network beside its weights: `FACTORS[factor]` × `unit_bytes` + `fixed_bytes`."""

    factor: str
    unit_bytes: float
    fixed_bytes: float = 0.0

    @property
    def bytes(self) -> int:
        """The whole of it."""
        return int(FACTORS[self.factor] * self.unit_bytes + self.fixed_bytes)

    def factor_for(self, measured: float) -> float:
        """The factor by which the need would be `measured` bytes."""
        return (measured - self.fixed_bytes) / self.unit_bytes


def activation_bytes(workload: Workload, components: Iterable[Component], tiled: bool = False) -> dict[str, int]:
    """Bytes beside the weights while each component runs, by its name.

    Args:
        workload: of the stage.
        components: of the stage.
        tiled: whether the autoencoder works in tiles.
    """
    return {component.name: need(workload, component, tiled).bytes for component in components}


def need(workload: Workload, component: Component, tiled: bool = False) -> Need:
    """The need of one component; arguments as for `activation_bytes`."""
    # activations share the number format of most weights
    itemsize = 4 if component.gpu_bytes > 3 * component.parameters else 2
    channel_bytes = component.width * itemsize
    pixels = workload.width * workload.height
    if component.name in DENOISERS:
        # speech to video keeps the keys and values of the text for a segment, for each pass
        kept = 2 * TEXT_TOKENS * component.layers * workload.passes if workload.stage == "speech_to_video" else 0
        return Need(workload.stage, workload.tokens * channel_bytes, kept * channel_bytes)
    if component.name == "text_encoder":
        return Need("text", TEXT_TOKENS * channel_bytes)
    if component.name == "audio_encoder":
        return Need("audio", component.width)
    if component.name == "speech_model":
        return Need("speech", _SPEECH_POSITIONS * channel_bytes)
    if component.name == "audio_vae":
        return Need("audio_vae", _RECORDING_SAMPLES * channel_bytes)
    if component.name == "network":
        width, height = workload.width + _UPSCALE_OVERLAP, workload.height + _UPSCALE_OVERLAP
        return Need("upscale", 4 * width * height * channel_bytes)
    picture = workload.stage == "text_to_image"
    if not tiled:
        if picture:
            return Need("flux_decoder", pixels * channel_bytes)
        # the decoded RGB frames, before and after they are joined
        return Need("wan_decoder", pixels * LATENT_FRAMES * channel_bytes, 2 * workload.pixels * 3 * itemsize)
    tiles = tiles_of(workload.stage)
    factor, frames = ("flux_decoder", 1) if picture else ("wan_tile", LATENT_FRAMES)
    tile = min(workload.width, tiles.side) * min(workload.height, tiles.side) * frames * channel_bytes
    decoded = workload.frames + (_MOTION_FRAMES if workload.stage == "speech_to_video" else 0)
    rgb = pixels * decoded * 3 * itemsize
    # All decoded tiles are kept as RGB while the last one is decoded; then their rows, the whole clip, and the clamped
    # clip exist together.
    all_tiles = tiles.overlap(workload.width, workload.height) * rgb
    return Need(factor, tile, max(all_tiles, all_tiles + 3 * rgb - FACTORS[factor] * tile))


@dataclass(frozen=True)
class Tiles:
    """Squares of `side` pixels, one every `stride` pixels."""

    side: int
    stride: int

    def widths(self, length: int) -> tuple[int, ...]:
        """Pixels of each tile along a side of `length` pixels."""
        return tuple(min(self.side, length - start) for start in range(0, length, self.stride))

    def overlap(self, width: int, height: int) -> float:
        """Pixels of all tiles divided by those of the picture, at least 1."""
        if max(width, height) <= self.side:
            return 1.0
        return sum(self.widths(width)) * sum(self.widths(height)) / (width * height)


WAN_TILES = Tiles(256, 192)
# twice as wide: FLUX's norms are taken over whole groups of channels, so that small tiles differ in brightness
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
        # FLUX's autoencoder would take tiles of the size in its config, which is that of a whole picture
        scale = 2 ** (len(vae.config.block_out_channels) - 1)
        vae.tile_sample_min_size, vae.tile_latent_min_size = FLUX_TILES.side, FLUX_TILES.side // scale
        vae.tile_overlap_factor = 1 - FLUX_TILES.stride / FLUX_TILES.side
