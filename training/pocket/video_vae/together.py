"""The Wan VAE on all frames in one pass, for training.

diffusers runs `AutoencoderKLWan` frame by frame with a feature cache, which on a GPU is bound by kernel launches, not
by arithmetic. If every causal convolution uses the current frame only, and only the `time_conv`s mix time, then 2-D
convolutions over all frames compute the same function; `tests/pocket/test_video_vae.py` compares the two. A toy VAE is
trained that way from the start: convolutions over past frames carry the padding before a clip's first frame through
dozens of latents, which a small network never unlearns.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanCausalConv3d,
    WanMidBlock,
    WanResample,
    WanResidualBlock,
    WanRMS_norm,
)
from torch import Tensor, nn


def forget_the_past(vae: AutoencoderKLWan) -> None:
    """Zero the past-frame taps of every causal convolution except the `time_conv`s, in place."""
    for name, module in vae.named_modules():
        if isinstance(module, WanCausalConv3d) and not name.endswith("time_conv"):
            with torch.no_grad():
                module.weight[:, :, :-1] = 0


def encode_together(vae: AutoencoderKLWan, pixels: Tensor) -> Tensor:
    """Encode to moments (mean, log-variance) [B, 2·z, T, h, w] the pixels [B, 3, F, H, W] in [-1, 1]; F = 4·T - 3."""
    batch = pixels.shape[0]
    x = _conv(vae.encoder.conv_in, _frames(pixels))
    for layer in vae.encoder.down_blocks:
        if isinstance(layer, WanResample):
            x = layer.resample(x)
            if layer.mode == "downsample3d":
                x = _halve(layer.time_conv, x, batch)
        else:
            x = _layer(layer, x)
    x = _layer(vae.encoder.mid_block, x)
    x = _conv(vae.encoder.conv_out, F.silu(_norm(vae.encoder.norm_out, x)))
    return _clip(_conv(vae.quant_conv, x), batch)


def decode_together(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """Decode latents [B, z, T, h, w], not normalised, to pixels [B, 3, 4·T - 3, 8·h, 8·w], not clamped."""
    batch = latents.shape[0]
    x = _conv(vae.decoder.conv_in, _conv(vae.post_quant_conv, _frames(latents)))
    x = _layer(vae.decoder.mid_block, x)
    for block in vae.decoder.up_blocks:
        for resnet in block.resnets:
            x = _layer(resnet, x)
        if block.upsamplers is not None:
            up = block.upsamplers[0]
            if up.mode == "upsample3d":
                x = _double(up.time_conv, x, batch)
            x = up.resample[1](F.interpolate(x, scale_factor=2.0, mode="nearest-exact"))
    x = _conv(vae.decoder.conv_out, F.silu(_norm(vae.decoder.norm_out, x)))
    return _clip(x, batch)


def _frames(clip: Tensor) -> Tensor:
    frames = clip.transpose(1, 2).flatten(0, 1)
    return frames.contiguous(memory_format=torch.channels_last)


def _clip(frames: Tensor, batch: int) -> Tensor:
    return frames.unflatten(0, (batch, -1)).transpose(1, 2)


def _conv(conv: WanCausalConv3d, x: Tensor) -> Tensor:
    return F.conv2d(x, conv.weight[:, :, -1], conv.bias, padding=conv.kernel_size[-1] // 2)


def _norm(norm: WanRMS_norm, x: Tensor) -> Tensor:
    return F.normalize(x.float(), dim=1).to(x.dtype) * norm.scale * norm.gamma.view(-1, 1, 1)


def _layer(layer: nn.Module, x: Tensor) -> Tensor:
    if isinstance(layer, WanResidualBlock):
        shortcut = x if isinstance(layer.conv_shortcut, nn.Identity) else _conv(layer.conv_shortcut, x)
        x = _conv(layer.conv1, F.silu(_norm(layer.norm1, x)))
        return shortcut + _conv(layer.conv2, F.silu(_norm(layer.norm2, x)))
    if isinstance(layer, WanAttentionBlock):
        return layer(x.unsqueeze(2)).squeeze(2)
    if isinstance(layer, WanMidBlock):
        x = _layer(layer.resnets[0], x)
        for attention, resnet in zip(layer.attentions, layer.resnets[1:], strict=True):
            x = _layer(resnet, _layer(attention, x))
        return x
    raise TypeError(f"{type(layer).__name__} has no implementation for all frames in one pass.")


def _mix(time_conv: WanCausalConv3d, taps: list[Tensor]) -> Tensor:
    # with three frames concatenated in the channels, a convolution over time is a 1x1 convolution over space
    weight = time_conv.weight[..., 0, 0].transpose(1, 2).flatten(1)[..., None, None]
    return F.conv2d(torch.cat(taps, dim=1), weight, time_conv.bias)


def _halve(time_conv: WanCausalConv3d, x: Tensor, batch: int) -> Tensor:
    clip = x.unflatten(0, (batch, -1))
    if clip.shape[1] == 1:
        return x
    taps = [clip[:, start : clip.shape[1] - 2 + start : 2].flatten(0, 1) for start in range(3)]
    mixed = _mix(time_conv, taps).unflatten(0, (batch, -1))
    return torch.cat([clip[:, :1], mixed], dim=1).flatten(0, 1)


def _double(time_conv: WanCausalConv3d, x: Tensor, batch: int) -> Tensor:
    clip = x.unflatten(0, (batch, -1))
    first, rest = clip[:, :1], clip[:, 1:]
    if rest.shape[1] == 0:
        return x
    # the first frame is a chunk of its own: the frames after it start with zero padding
    before = torch.cat([torch.zeros_like(rest[:, :1]), torch.zeros_like(rest[:, :1]), rest], dim=1)
    taps = [before[:, start : start + rest.shape[1]].flatten(0, 1) for start in range(3)]
    mixed = _mix(time_conv, taps).unflatten(1, (2, -1)).flatten(0, 1).unflatten(0, (batch, -1))
    return torch.cat([first, mixed], dim=1).flatten(0, 1)
