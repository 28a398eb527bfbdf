"""What a stage needs on the GPU beside its weights, in bytes, while each of its networks works.

A forward pass of a transformer needs so many times its hidden states [tokens, width]; decoding needs so many times the
finest feature maps of the decoder. Those factors are `UNITS`, the largest that `python -m wanavatar_lab.bench stages`
measured on an H100 and a little more (`docs/measured/`): speech to video 14.1, image to video 12.0, FLUX's transformer
23.1 and decoder 9.8, Wan's decoder 14.4 and in tiles 16.9, text encoders 113, wav2vec2 0.32 million, the upscaler 2.2.
On the meta device, where it can be counted without a GPU, a pass of the three transformers allocates 14.3, 11.1 and
21.8 (`tests/memory/test_activations.py`).

Autoencoders that work in tiles, so that what they need grows with a tile and not with the picture.

The tiles are diffusers' own: they overlap, and are blended into each other where they do. No torch is needed here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from wanavatar_lab.memory.components import Component


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


UNITS = {
    "speech_to_video": 15.0,
    "image_to_video": 12.5,
    "text_to_image": 25.0,
    "wan_decoder": 15.0,  # of 4 frames at full size
    "wan_tile": 18.0,  # the same of a tile
    "flux_decoder": 10.5,
    "upscale": 3.0,  # of feature maps twice as wide and high as the tile
    "text": 120.0,  # hidden states of all layers, and the logits that Qwen3 computes along with them
    "audio": 400_000.0,  # bytes per channel, for a window of a minute
}

TEXT_TOKENS = 512  # the most that both text encoders are given
TILE_EDGE = 20  # pixels that an upscaler's tile is larger than asked for
_LATENT_FRAMES = 4  # pixel frames of a latent frame
_MOTION_FRAMES = 73  # that speech to video decodes before a segment's own
_TOKEN_SIDE = 16  # pixels: stride 8 of the autoencoder times patch size 2


@dataclass(frozen=True)
class Workload:
    """What a request asks of a stage.

    Attributes:
        stage: which.
        width, height: pixels of what is made; of a tile for upscale.
        frames: of the clip, or of a segment; 1 for a picture.
        steps: denoising steps of the clip or segment.
        passes: forward passes per step: 2 with guidance.
        segments: how many of these a clip is made of, one after the other, where the request says it.
    """

    stage: str
    width: int
    height: int
    frames: int = 1
    steps: int = 1
    passes: int = 1
    segments: int = 1

    @property
    def tokens(self) -> int:
        """Length of the transformer's sequence."""
        rows, columns = self.height // _TOKEN_SIDE, self.width // _TOKEN_SIDE
        if self.stage == "text_to_image":
            return rows * columns + TEXT_TOKENS
        if self.stage == "image_to_video":
            return ((self.frames - 1) // _LATENT_FRAMES + 1) * rows * columns
        if self.stage == "speech_to_video":
            # the reference picture, and the motion latents in three sizes of patches: see `s2v.layout`
            packed = rows * columns + (rows // 2) * (columns // 2) + 4 * (rows // 4) * (columns // 4)
            return self.frames // _LATENT_FRAMES * rows * columns + rows * columns + packed
        return 0

    @property
    def samples(self) -> int:
        """Pixels of all frames."""
        return self.width * self.height * self.frames


@dataclass(frozen=True)
class Need:
    """What a network needs beside its weights while it works: `UNITS[unit]` × `unit_bytes` + `fixed_bytes`."""

    unit: str
    unit_bytes: float
    fixed_bytes: float = 0.0

    @property
    def bytes(self) -> int:
        """All of it."""
        return int(UNITS[self.unit] * self.unit_bytes + self.fixed_bytes)

    def units(self, measured: float) -> float:
        """What `UNITS[unit]` would be if so many bytes had been measured."""
        return (measured - self.fixed_bytes) / self.unit_bytes


def activation_bytes(work: Workload, components: Iterable[Component], tiled: bool = False) -> dict[str, int]:
    """Bytes beside the weights while each component works, by its name; `tiled` as in `need`."""
    return {component.name: need(work, component, tiled).bytes for component in components}


def need(work: Workload, component: Component, tiled: bool = False) -> Need:
    """What a component needs beside its weights for some work; `tiled` says that the autoencoder works in tiles."""
    itemsize = _itemsize(component)
    match component.name:
        case "transformer" | "transformer_2":
            hidden = work.tokens * component.width * itemsize
            return Need(work.stage, hidden, _kept_keys(work, component) * itemsize)
        case "text_encoder":
            return Need("text", TEXT_TOKENS * component.width * itemsize)
        case "audio_encoder":
            return Need("audio", component.width)
        case "vae" if tiled:
            return _tiled_need(work, component, itemsize)
        case "vae" if work.stage == "text_to_image":
            return Need("flux_decoder", work.samples * component.width * itemsize)
        case "vae":
            chunk = work.width * work.height * _LATENT_FRAMES * component.width * itemsize
            # the frames lie there in colours too, before and after they are joined
            return Need("wan_decoder", chunk, 2 * work.samples * 3 * itemsize)
        case _:
            feature_map = 4 * (work.width + TILE_EDGE) * (work.height + TILE_EDGE) * component.width
            return Need("upscale", feature_map * itemsize)


def _tiled_need(work: Workload, component: Component, itemsize: int) -> Need:
    tiles, picture = tiles_of(work.stage), work.stage == "text_to_image"
    unit, frames = ("flux_decoder", 1) if picture else ("wan_tile", _LATENT_FRAMES)
    tile = min(work.width, tiles.side) * min(work.height, tiles.side) * frames * component.width * itemsize
    decoded = work.frames + (_MOTION_FRAMES if work.stage == "speech_to_video" else 0)
    colours = work.width * work.height * decoded * 3 * itemsize
    # all tiles lie there in colours while the last one is decoded; then their rows, the whole, and the whole clamped
    tiles_bytes = tiles.overlap(work.width, work.height) * colours
    return Need(unit, tile, max(tiles_bytes, tiles_bytes + 3 * colours - UNITS[unit] * tile))


def _kept_keys(work: Workload, component: Component) -> int:
    """Numbers in the keys and values of the text, which speech to video keeps for a segment, per pass."""
    if work.stage != "speech_to_video":
        return 0
    return 2 * TEXT_TOKENS * component.width * component.layers * work.passes


def _itemsize(component: Component) -> int:
    """Bytes of a number, which activations share with most of the weights."""
    return 4 if component.gpu_bytes > 3 * component.parameters else 2
