"""A small picture of what a run is making, drawn from its latents while they are denoised.

Latents are nearly a small picture already: a linear map from their channels to red, green and blue shows colours, faces
and poses, for thousands of times less work than the decoder. The map is fitted to the VAE itself when that is loaded,
so that it suits the VAE of any profile. It is fitted on dead leaves, drawn pictures of shapes that cover one another,
whose edges and flat parts have the statistics of photographs (Lee, Mumford and Huang, "Occlusion Models for Natural
Images", 2001).
"""

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress

import torch
from diffusers import AutoencoderKLWan
from PIL import Image
from torch.nn import functional

from wanavatar_lab.errors import DiskFull
from wanavatar_lab.runs.run import PREVIEW
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.wan.latents import LatentCodec

SHARE = 0.02  # of a run's time, at most, goes to previews
FIRST_AFTER = 0.5  # seconds; by then even a quick step shows something
PICTURES, SIDE, LEAVES = 4, 64, 20  # that a map is fitted to: number of pictures, their side in pixels, shapes in each
# a video encoder costs a hundred times more, and a published one takes seconds for these on one core of a CPU: each of
# the map's few unknowns still meets four values, and colours are 2 levels of 255 less exact than with the above
CLIP_PICTURES, CLIP_SIDE = 2, 48
MIN_LEAF, MAX_LEAF = 0.03, 0.35  # radii, as parts of a side
MAX_ZOOM, SHOWN_SIDE = 8, 240  # a pixel of the latents is enlarged so far at most, until the picture has this side

_log = logging.getLogger(__name__)


class LatentPreview:
    """Draws previews into a run's folder, no more often than `SHARE` allows.

    If one cannot be drawn or written, the run's log says why, and the run continues without previews.

    Args:
        context: of the run.
        colours: from `fit_colours`; None draws nothing.
        clock: a monotonic clock, in seconds.
    """

    def __init__(
        self, context: StageContext, colours: torch.Tensor | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._context, self._clock = context, clock
        self._colours = colours if context.ranks.leads else None
        self._next = clock() + FIRST_AFTER

    def offer(self, latents: Callable[[], torch.Tensor | None]) -> None:
        """Draw a preview if it is time for one. To be called after each step.

        Args:
            latents: returns the current estimate of the result, [C, h, w] without noise, on any device, or None if
                there is none yet. Called only if a preview is drawn.
        """
        if self._colours is None or self._clock() < self._next:
            return
        try:
            found = latents()
            if found is None:
                return
            # the copy waits for the device to finish the step, which is not time that the preview takes
            found = found.detach().float().cpu()
            begun = self._clock()
            path = self._context.folder / PREVIEW
            draft = path.with_name(f".{PREVIEW}")
            draw(found, self._colours).save(draft, quality=80, method=0)
            # not synced to the disk: a reader sees the old one or the new one, and after a power cut nobody needs it
            os.replace(draft, path)
            ended = self._clock()
        except Exception as error:  # noqa: BLE001  whatever it is, a preview is not worth failing the run
            self._colours = None
            with suppress(DiskFull):  # without room for a line in the log, the run fails by itself
                self._context.log(f"There will be no more previews: {type(error).__name__}: {error}")
            return
        self._next = ended + (ended - begun) / SHARE


def draw(latents: torch.Tensor, colours: torch.Tensor) -> Image.Image:
    """The picture of latents [C, h, w] without noise, enlarged where it is small.

    Raises:
        ValueError: they have another number of channels than `colours` was fitted to, or are not finite.
    """
    channels = len(colours) - 1
    if latents.ndim != 3 or len(latents) != channels:
        raise ValueError(f"latents are {list(latents.shape)}; need [{channels}, h, w].")
    if not latents.isfinite().all():
        raise ValueError("the latents have values that are not finite.")
    pixels = torch.einsum("chw,ck->hwk", latents, colours[:-1]) + colours[-1]
    levels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    picture = Image.fromarray(levels)
    zoom = max(1, min(MAX_ZOOM, SHOWN_SIDE // max(picture.size)))
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.BICUBIC)


def fit_colours(
    encode: Callable[[torch.Tensor], torch.Tensor], pictures: int = PICTURES, side: int = SIDE
) -> torch.Tensor | None:
    """The linear map from latents to colours that fits an encoder best, by least squares.

    Args:
        encode: pixels [B, 3, H, W] in [-1, 1] -> latents [B, C, h, w].
        pictures: how many it is fitted to.
        side: of each, in pixels.

    Returns:
        [C + 1, 3], the last row the colour of latents that are zero; None if encoding fails, which is logged.
    """
    try:
        with torch.no_grad():
            pixels = dead_leaves(pictures, side)
            latents = encode(pixels).float().cpu()
            small = functional.adaptive_avg_pool2d(pixels, (latents.shape[-2], latents.shape[-1]))
            inputs = functional.pad(_rows(latents), (0, 1), value=1.0)
            colours: torch.Tensor = torch.linalg.lstsq(inputs, _rows(small)).solution
    except RuntimeError as error:
        _log.warning("Runs will have no previews: %s", error)
        return None
    return colours


def fit_video_colours(vae: AutoencoderKLWan) -> torch.Tensor | None:
    """`fit_colours` for the normalised latents of a Wan VAE in main memory."""
    codec, device = LatentCodec(vae), torch.device("cpu")

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        # a clip's first frame is encoded alone and differs from all others, so the group of four after it is taken
        return codec.encode(pixels[:, :, None].expand(-1, -1, 5, -1, -1), device)[:, :, 1]

    return fit_colours(encode, CLIP_PICTURES, CLIP_SIDE)


def middle_frame(latents: torch.Tensor) -> torch.Tensor:
    """The frame [C, h, w] in the middle of a clip's latents [1, C, F, h, w]."""
    return latents[0, :, latents.shape[2] // 2]


def dead_leaves(pictures: int = PICTURES, side: int = SIDE) -> torch.Tensor:
    """Pictures [pictures, 3, side, side] in [-1, 1] of ellipses over ellipses, the same each time."""
    generator = torch.Generator().manual_seed(0)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(pictures, *shape, 1, 1, generator=generator)

    down, across = torch.meshgrid(*[torch.linspace(0, 1, side)] * 2, indexing="ij")
    drawn = (2 * uniform(3) - 1).expand(-1, -1, side, side)
    for _ in range(LEAVES):
        (y, x), colour = uniform(2).unbind(1), 2 * uniform(3) - 1
        high, wide = (MIN_LEAF * (MAX_LEAF / MIN_LEAF) ** uniform(2)).unbind(1)
        inside = ((down - y) / high) ** 2 + ((across - x) / wide) ** 2 < 1
        drawn = torch.where(inside[:, None], colour, drawn)
    return drawn


def _rows(maps: torch.Tensor) -> torch.Tensor:
    """[B, C, h, w] as [B·h·w, C]."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)
