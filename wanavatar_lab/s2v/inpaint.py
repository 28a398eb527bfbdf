"""Inpainting: parts of the frames are given, and the network makes the rest.

The patch embedding of such a network takes 36 channels: the 16 of the noisy latents, which pixels are given (four, one
for each frame of a latent) and what they show (16, latents of the frames with the rest grey). The weights of the
further channels start as zeros, so that a network that was widened and not yet trained predicts what it did before, bit
by bit; where nothing is given the channels are zeros, so that a trained one still makes clips from nothing.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from wanavatar_lab.wan.latents import Frames, LatentCodec

if TYPE_CHECKING:
    from wanavatar_lab.s2v.transformer import WanS2VTransformer3DModel

FRAMES_PER_LATENT = 4


def inpaint_channels(latent_channels: int) -> int:
    """Channels of the given frames: a mask for each frame of a latent, and the latents of what they show."""
    return FRAMES_PER_LATENT + latent_channels


class WanS2VInpaintPatchEmbedding(nn.Conv3d):
    """Patches of noisy latents and of given frames, embedded separately and added.

    One product over all channels would add up in another order, and be off by a rounding even where the further
    weights are zeros.

    Args:
        latent_channels: of the noisy latents, which come first.
        dim: width of the tokens.
        patch_size: latent (frames, rows, columns) of one token.
    """

    def __init__(self, latent_channels: int, dim: int, patch_size: tuple[int, int, int]) -> None:
        super().__init__(latent_channels + inpaint_channels(latent_channels), dim, patch_size, stride=patch_size)
        self.latent_channels = latent_channels

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """[B, 2·z + 4, F, h, w] -> [B, dim, F, h/2, w/2]."""
        count, weight = self.latent_channels, self.weight.to(states.dtype)
        bias = self.bias.to(states.dtype)  # type: ignore[union-attr]
        noisy = F.conv3d(states[:, :count], weight[:, :count].contiguous(), bias, self.stride)
        return noisy + F.conv3d(states[:, count:], weight[:, count:].contiguous(), None, self.stride)


@torch.no_grad()
def widen_patch_embedding(network: "WanS2VTransformer3DModel") -> None:
    """Add the channels for given frames to a network; its predictions stay the same. Does nothing if it has them.

    Raises:
        ValueError: its patch embedding has an adapter, which would no longer fit.
    """
    latents = network.config.out_channels
    if network.config.in_channels != latents:
        return
    plain = network.patch_embedding
    if hasattr(plain, "base_layer"):
        raise ValueError("The patch embedding has an adapter: widen the network first, then load adapters.")
    with torch.device("meta"):
        wide = WanS2VInpaintPatchEmbedding(latents, plain.out_channels, network.config.patch_size)
    further = plain.weight.new_zeros(plain.out_channels, inpaint_channels(latents), *plain.kernel_size)
    wide.weight = nn.Parameter(torch.cat([plain.weight, further], dim=1), plain.weight.requires_grad)
    wide.bias = plain.bias
    network.patch_embedding = wide.train(plain.training)
    network.register_to_config(in_channels=wide.in_channels)


def encode_given(codec: LatentCodec, pixels: torch.Tensor, given: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The network's input for given frames, `inpaint_latents` of its `forward`.

    Args:
        codec: the VAE.
        pixels: [1, 3, F, H, W] in [-1, 1], F a multiple of 4; pixels that are not given are ignored.
        given: [1, 1, F, H, W], 1 where a pixel is given and 0 where it is to be generated.
        device: where it goes.

    Returns:
        [1, 4 + z, F/4, H/8, W/8] in float32.
    """
    latents = codec.encode_groups(pixels * given, device)
    _, _, groups, rows, columns = latents.shape
    # for each position of the latents the share of its pixels that is given
    shares = F.adaptive_avg_pool2d(given[0, 0].float(), (rows, columns))
    shares = shares.reshape(groups, FRAMES_PER_LATENT, rows, columns).transpose(0, 1)[None].to(latents)
    # four frames of which nothing is given are zeros, not a grey picture
    seen = shares.amax(dim=(1, 3, 4), keepdim=True) > 0
    return torch.cat([shares, latents * seen], dim=1)


def segment_given(
    codec: LatentCodec, video: Frames, mask: Frames, window: slice, size: tuple[int, int], device: torch.device
) -> torch.Tensor:
    """`encode_given` of the frames `window` of a video; beyond its end nothing is given.

    Args:
        video: [F, 3, H, W] in [0, 1].
        mask: [F, 1, H, W], 1 where the picture is generated and 0 where the video's is kept.
        size: height and width in pixels.
    """
    frames = window.stop - window.start
    pixels, given = torch.zeros(frames, 3, *size), torch.zeros(frames, 1, *size)
    kept, generated = video[window].float().cpu(), mask[window].float().cpu()
    count = min(len(kept), len(generated))
    pixels[:count], given[:count] = kept[:count] * 2 - 1, 1 - generated[:count]
    return encode_given(codec, pixels.transpose(0, 1)[None], given.transpose(0, 1)[None], device)
