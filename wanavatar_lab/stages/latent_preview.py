"""A small picture of what a run is making, drawn from its latents while they are denoised.

Latents are nearly a small picture already: a linear map from their channels to red, green and blue shows colours, faces
and poses, for thousands of times less work than the decoder. The map is fitted to the VAE itself when that is loaded,
so that it suits whatever VAE a profile brings. What it is fitted to are dead leaves, pictures of shapes that cover one
another, which have the edges and flat parts of true ones (Lee, Mumford and Huang, "Occlusion Models for Natural
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

SHARE = 0.02  # of the time between two previews that drawing one may take
FIRST_AFTER = 0.5  # seconds; by then even a quick step shows something
PICTURES, SIDE, LEAVES = 4, 64, 20  # that a map is fitted to: how many, their pixels along a side, shapes in each
# a video encoder is a hundred times dearer, and a published one takes seconds for these on one core of a CPU: each of
# its few unknowns still meets four values, and colours come out 2 levels of 255 less exact than from the above
CLIP_PICTURES, CLIP_SIDE = 2, 48
SMALLEST_LEAF, LARGEST_LEAF = 0.03, 0.35  # radii, in parts of a side
LARGEST_ZOOM, SHOWN_SIDE = 8, 240  # a pixel of the latents becomes so many at most, until the picture has this side

_log = logging.getLogger(__name__)


class LatentPreview:
    """Draws previews into a run's folder, no more often than `SHARE` allows.

    A preview that cannot be drawn or written is said in the run's log, and is the last one; the run goes on.

    Args:
        context: of the run.
        colours: from `fit_colours`; None draws nothing.
        clock: seconds, from any beginning.
    """

    def __init__(
        self, context: StageContext, colours: torch.Tensor | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._context, self._colours, self._clock = context, colours, clock
        self._next = clock() + FIRST_AFTER

    def offer(self, latents: Callable[[], torch.Tensor | None]) -> None:
        """Draw a preview if it is time for one. To be called after each step.

        Args:
            latents: gives what the run would make if it ended now, [C, h, w] without noise, on any device; or None if
                that is not known yet. Called only where a preview is drawn.
        """
        if self._colours is None or self._clock() < self._next:
            return
        try:
            found = latents()
            if found is None:
                return
            # the copy waits for the device to finish the step, which is not the preview's time
            found = found.detach().float().cpu()
            begun = self._clock()
            self._write(draw(found, self._colours))
            ended = self._clock()
        except Exception as error:  # noqa: BLE001  whatever it is, a look at the work is not worth the work
            self._colours = None
            with suppress(DiskFull):  # where there is no room for a line, the run will say so itself
                self._context.log(f"There will be no more previews: {type(error).__name__}: {error}")
            return
        self._next = ended + (ended - begun) / SHARE

    def _write(self, picture: Image.Image) -> None:
        # not synced to the disk: who reads sees the old one or the new one, and after a power cut nobody needs it
        path = self._context.folder / PREVIEW
        draft = path.with_name(f".{PREVIEW}")
        picture.save(draft, quality=80, method=0)
        os.replace(draft, path)


def draw(latents: torch.Tensor, colours: torch.Tensor) -> Image.Image:
    """The picture of latents [C, h, w] without noise, enlarged where it is small.

    Raises:
        ValueError: they have another number of channels than `colours` was fitted for, or no finite values.
    """
    channels = len(colours) - 1
    if latents.ndim != 3 or len(latents) != channels:
        raise ValueError(f"latents are {list(latents.shape)}; need [{channels}, h, w].")
    if not latents.isfinite().all():
        raise ValueError("the latents have values that are no numbers.")
    pixels = torch.einsum("chw,ck->hwk", latents, colours[:-1]) + colours[-1]
    levels = ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    picture = Image.fromarray(levels)
    zoom = max(1, min(LARGEST_ZOOM, SHOWN_SIDE // max(picture.size)))
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.BICUBIC)


def fit_colours(
    encode: Callable[[torch.Tensor], torch.Tensor], pictures: int = PICTURES, side: int = SIDE
) -> torch.Tensor | None:
    """The linear map from latents to colours that is best for an encoder.

    Args:
        encode: pixels [B, 3, H, W] in [-1, 1] -> latents [B, C, h, w].
        pictures: how many it is fitted to.
        side: pixels along a side of each.

    Returns:
        [C + 1, 3], the last row the colour of latents that are zero; None if there is none, and the log says why.
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
    """The same for the normalised latents of a Wan VAE in main memory."""
    codec, device = LatentCodec(vae), torch.device("cpu")

    def encode(pixels: torch.Tensor) -> torch.Tensor:
        # a clip's first frame is encoded alone and looks like no other: what counts is the group of four after it
        return codec.encode(pixels[:, :, None].expand(-1, -1, 5, -1, -1), device)[:, :, 1]

    return fit_colours(encode, CLIP_PICTURES, CLIP_SIDE)


def middle_frame(latents: torch.Tensor) -> torch.Tensor:
    """The frame [C, h, w] in the middle of a clip's latents [1, C, F, h, w]."""
    return latents[0, :, latents.shape[2] // 2]


def dead_leaves(pictures: int = PICTURES, side: int = SIDE) -> torch.Tensor:
    """Drawn pictures [pictures, 3, side, side] in [-1, 1], the same each time: ellipses over ellipses."""
    generator = torch.Generator().manual_seed(0)

    def draw_lots(*shape: int) -> torch.Tensor:
        return torch.rand(pictures, *shape, 1, 1, generator=generator)

    down, across = torch.meshgrid(*[torch.linspace(0, 1, side)] * 2, indexing="ij")
    drawn = (2 * draw_lots(3) - 1).expand(-1, -1, side, side)
    for _ in range(LEAVES):
        (y, x), colour = draw_lots(2).unbind(1), 2 * draw_lots(3) - 1
        high, wide = (SMALLEST_LEAF * (LARGEST_LEAF / SMALLEST_LEAF) ** draw_lots(2)).unbind(1)
        inside = ((down - y) / high) ** 2 + ((across - x) / wide) ** 2 < 1
        drawn = torch.where(inside[:, None], colour, drawn)
    return drawn


def _rows(maps: torch.Tensor) -> torch.Tensor:
    """[B, C, h, w] as [B·h·w, C]."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)
