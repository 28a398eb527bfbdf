"""Pixels to latents and back: pictures, videos and Wan's VAE."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from diffusers.hooks.group_offloading import _maybe_remove_and_reapply_group_offloading
from PIL import Image

from wanavatar_lab.errors import NotFinite
from wanavatar_lab.wan.vae import only_last_frames

_log = logging.getLogger(__name__)

MOTION_FRAMES = 73  # frames that S2V was trained to continue from: 19 latents


class VideoFrames(Protocol):
    """A video [F, C, H, W] in [0, 1] that is read window by window; a tensor is one too."""

    @property
    def ndim(self) -> int: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, window: slice) -> torch.Tensor: ...


Frames = torch.Tensor | VideoFrames
Picture = Image.Image | np.ndarray | torch.Tensor


def as_picture(image: Picture) -> Image.Image:
    """A PIL image in RGB of a PIL image, uint8 [H, W, 3], or a float tensor [3, H, W] in [0, 1].

    Transparency is laid over white, as `media.read_picture` does.

    Raises:
        ValueError: the picture is none of these, or has more than 8 bits, which Pillow would cut to white.
    """
    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):
            raise ValueError(
                f"image has the mode {image.mode} and not 8 bits; read it with wanavatar_lab.media.read_picture."
            )
        if image.has_transparency_data:
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
        return image.convert("RGB")
    found = type(image).__name__
    if isinstance(image, np.ndarray | torch.Tensor):
        found, fits = f"{image.dtype} {list(image.shape)}", image.ndim == 3 and 0 not in image.shape
        if isinstance(image, torch.Tensor) and fits and image.is_floating_point() and image.shape[0] == 3:
            levels = image.detach().cpu().float().clamp(0, 1) * 255
            return Image.fromarray(levels.round().byte().permute(1, 2, 0).numpy())
        if isinstance(image, np.ndarray) and fits and image.dtype == np.uint8 and image.shape[2] == 3:
            return Image.fromarray(image)
    raise ValueError(f"image is {found}; need a PIL image, uint8 [H, W, 3], or a float tensor [3, H, W] in [0, 1].")


def picture_to_pixels(
    picture: Picture, height: int, width: int, resample: Image.Resampling = Image.Resampling.BILINEAR
) -> torch.Tensor:
    """A picture as [1, 3, 1, height, width] in [-1, 1], scaled to cover the frame and cropped at its centre.

    Args:
        picture: of a kind that `as_picture` reads.
        height, width: of the frame in pixels.
        resample: PIL's, which averages over what a pixel covers. Wan2.2-S2V's reference scales bilinearly, diffusers'
            image to video by Lanczos.

    Raises:
        ValueError: the picture is of no kind that `as_picture` reads.
    """
    picture = as_picture(picture)
    size, left, top = cover(picture.size, height, width)
    if picture.size != size:
        picture = picture.resize(size, resample)
    levels = np.array(picture.crop((left, top, left + width, top + height)))
    pixels = torch.from_numpy(levels).permute(2, 0, 1).float() / 255
    return (pixels * 2 - 1)[None, :, None]


def cover(picture: tuple[int, int], height: int, width: int) -> tuple[tuple[int, int], int, int]:
    """How a picture is made to cover a frame: the width and height that it is scaled to, and where the frame begins.

    Args:
        picture: its width and height.
        height, width: of the frame, which shows the scaled picture from (left, top) on.

    Returns:
        The scaled size, left and top, in pixels.
    """
    # the side that is longer than the frame's is truncated to whole pixels, as torchvision does for the reference
    size = (max(width, picture[0] * height // picture[1]), max(height, picture[1] * width // picture[0]))
    return size, round((size[0] - width) / 2), round((size[1] - height) / 2)


def to_host(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in main memory, by memory that a GPU writes to itself; a tensor that is there is returned."""
    if not tensor.is_cuda:
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor)


def check_finite(values: torch.Tensor, where: str) -> None:
    """Refuse NaN and infinite values; waits for the device, so call it once a step or less.

    Args:
        where: what `values` are, as `NotFinite` takes it.

    Raises:
        NotFinite: there are some.
    """
    ends = torch.stack(torch.aminmax(values))  # NaN if any value is; needs no memory of the size of `values`
    if not ends.isfinite().all():
        raise NotFinite(where)


@contextmanager
def checked_decoder(vae: Any, where: str) -> Iterator[None]:
    """Refuse NaN and infinite values that the decoder of an autoencoder gives within the block.

    What `decode` returns does not show them all, since it is clamped. The device is waited for once, at the end.

    Raises:
        NotFinite: there are some.
    """
    ends: list[torch.Tensor] = []

    def note(*call: Any) -> None:
        if call[2].numel():  # of the frames before those that are wanted there may be none
            ends.append(torch.stack(torch.aminmax(call[2])))

    with vae.decoder.register_forward_hook(note):
        yield
    check_finite(torch.stack(ends), where)


class LatentCodec:
    """A Wan VAE whose latents are normalised, as the diffusion networks take them."""

    def __init__(self, vae: AutoencoderKLWan) -> None:
        self.vae = vae
        shape = (1, vae.config.z_dim, 1, 1, 1)
        self.mean = torch.tensor(vae.config.latents_mean).view(shape)
        self.std = torch.tensor(vae.config.latents_std).view(shape)

    def encode(self, pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
        """[B, 3, F, H, W] in [-1, 1] -> latents [B, z, (F + 3) // 4, H/8, W/8] in float32 on `device`.

        Raises:
            NotFinite: latents are NaN or infinite.
        """

        def encoded() -> torch.Tensor:
            latents: torch.Tensor = self.vae.encode(pixels.to(device, self.vae.dtype)).latent_dist.mode().float()
            check_finite(latents, "The encoded pictures")
            return (latents - self.mean.to(latents.device)) / self.std.to(latents.device)

        return self._in_float32_at_need(encoded)

    def decode(self, latents: torch.Tensor, name: str = "The clip", wanted: int | None = None) -> torch.Tensor:
        """Latents [B, z, F, h, w] -> pixels [B, 3, 4·F - 3, 8·h, 8·w] in [-1, 1], float32.

        Args:
            name: of what is decoded, for an error.
            wanted: of the frames, only so many of the last ones.

        Raises:
            NotFinite: pixels are NaN or infinite.
        """
        latents = latents.float() * self.std.to(latents.device) + self.mean.to(latents.device)

        def decoded() -> torch.Tensor:
            with checked_decoder(self.vae, f"{name}: the decoded frames"), only_last_frames(self.vae, wanted):
                frames: torch.Tensor = self.vae.decode(latents.to(self.vae.dtype), return_dict=False)[0].float()
            return frames

        frames = self._in_float32_at_need(decoded)
        return frames if wanted is None else frames[:, :, -wanted:]

    def _in_float32_at_need(self, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
        try:
            return compute()
        except NotFinite:
            if self.vae.dtype != torch.float16:
                raise
        _log.warning("The video VAE has values beyond float16. It computes again in float32, which takes longer.")
        # diffusers' group offloading has copies of the weights, taken when it was enabled
        _maybe_remove_and_reapply_group_offloading(self.vae.float())
        try:
            return compute()
        finally:
            _maybe_remove_and_reapply_group_offloading(self.vae.half())

    def encode_pose(
        self, pose_video: Frames, window: slice, size: tuple[int, int], device: torch.device
    ) -> torch.Tensor:
        """Latents [1, z, F/4, h, w] of the frames `window` of a pose video in [0, 1]; black beyond its end."""
        pixels = pose_video[window].float().cpu() * 2 - 1
        black = -torch.ones(window.stop - window.start - len(pixels), 3, *size)
        return self.encode_groups(torch.cat([pixels, black]).transpose(0, 1)[None], device)

    def encode_groups(self, pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
        """[B, 3, F, H, W] in [-1, 1] -> latents [B, z, F/4, H/8, W/8], each of exactly four frames."""
        # the VAE encodes a first frame on its own; with that one doubled the rest falls into whole groups of four
        return self.encode(torch.cat([pixels[:, :, :1], pixels], dim=2), device)[:, :, 1:]
