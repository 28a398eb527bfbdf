"""Inpainting: parts of the frames are given, and the network makes the rest.

A network whose patch embedding takes 36 channels sees, beside the 16 of the noisy latents, which pixels are given (four
channels, one for each frame of a latent) and what they show (16, latents of the frames with the rest grey). The further
channels begin as zeros, so that a network that was widened and not yet trained predicts what it did before, bit by bit;
and where nothing is given they see zeros, so that a trained one still makes clips from nothing.
"""

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from wanavatar_lab.wan.latents import LatentCodec, VideoFrames

if TYPE_CHECKING:
    from wanavatar_lab.s2v.transformer import WanS2VTransformer3DModel

FRAMES_PER_LATENT = 4


def inpaint_channels(latent_channels: int) -> int:
    """How many channels say what is given: one for each frame of a latent, and the latents of what they show."""
    return FRAMES_PER_LATENT + latent_channels


class WanS2VInpaintPatchEmbedding(nn.Conv3d):
    """Patches of noisy latents and of what is given, embedded apart and added.

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
        bias = None if self.bias is None else self.bias.to(states.dtype)
        noisy = F.conv3d(states[:, :count], weight[:, :count].contiguous(), bias, self.stride)
        return noisy + F.conv3d(states[:, count:], weight[:, count:].contiguous(), None, self.stride)


@torch.no_grad()
def widen_patch_embedding(network: "WanS2VTransformer3DModel") -> None:
    """Let a network take what is given; what it predicts stays the same. One that takes it already is left alone.

    Raises:
        ValueError: there is an adapter at its patch embedding, which would not fit any more.
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
    """What the network sees of given frames.

    Args:
        codec: the VAE.
        pixels: [1, 3, F, H, W] in [-1, 1], F a multiple of 4; what is not given does not matter.
        given: [1, 1, F, H, W], 1 where a pixel is given and 0 where it is to be made.
        device: where it goes.

    Returns:
        [1, 4 + z, F/4, H/8, W/8] in float32.
    """
    latents = codec.encode_groups(pixels * given, device)
    _, _, groups, rows, columns = latents.shape
    # in each place of the latents the share of its pixels that is given
    shares = F.adaptive_avg_pool2d(given[0, 0].float(), (rows, columns))
    shares = shares.reshape(groups, FRAMES_PER_LATENT, rows, columns).transpose(0, 1)[None].to(latents)
    # four frames of which nothing is given are no grey picture, but none
    seen = shares.amax(dim=(1, 3, 4), keepdim=True) > 0
    return torch.cat([shares, latents * seen], dim=1)


def segment_given(
    codec: LatentCodec,
    video: torch.Tensor | VideoFrames,
    mask: torch.Tensor | VideoFrames,
    window: slice,
    size: tuple[int, int],
    device: torch.device,
) -> torch.Tensor:
    """`encode_given` of the frames `window` of a video; beyond its end nothing is given.

    Args:
        video: [F, 3, H, W] in [0, 1].
        mask: [F, 1, H, W], 1 where the picture is to be made and 0 where the video's is kept.
        size: height and width in pixels.
    """
    frames = window.stop - window.start
    pixels, given = torch.zeros(frames, 3, *size), torch.zeros(frames, 1, *size)
    seen, open_ = video[window].float().cpu(), mask[window].float().cpu()
    count = min(len(seen), len(open_))
    pixels[:count], given[:count] = seen[:count] * 2 - 1, 1 - open_[:count]
    return encode_given(codec, pixels.transpose(0, 1)[None], given.transpose(0, 1)[None], device)
