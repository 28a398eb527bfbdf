"""Wan's VAE, computed faster than diffusers does, to the rounding of sums in another order.

On a CPU, 3-D convolutions are computed over frames as pictures, where that is faster. PyTorch computes them in float32
by oneDNN only where the input is large; all others, which are most of a small VAE's, go through `slow_conv3d_forward`:
`weights/pocket/video_vae` decoded eight times as slowly.

On a GPU, the VAE is in float16, whose significand is that of TF32, in which cuDNN computes convolutions in float32:
channels are innermost, nothing is padded in memory, and a kernel computes each norm with its SiLU.

Everywhere, layers leave out the frames that nothing wanted depends on: the latents before a segment set the state of
the causal decoder, and the finer a layer is, the fewer of their frames are seen by the segment's own.
"""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    CACHE_T,
    WanAttentionBlock,
    WanCausalConv3d,
    WanDecoder3d,
    WanResample,
    WanResidualBlock,
)
from diffusers.models.autoencoders.vae import DecoderOutput
from torch import Tensor, nn

from wanavatar_lab.runs.ranks import BY_ITSELF, Ranks
from wanavatar_lab.wan.strips import Strip, StripAttentionBlock, StripConv2d, in_strips

# PyTorch leaves a 3-D convolution of one sample to oneDNN only above so many elements [C, F, H], the width not counted
# (`ConvParams::use_mkldnn` in aten/src/ATen/native/Convolution.cpp); for kernels of up to 3x3, as all of Wan's are
ONEDNN_ELEMENTS = 20480
# of a call of encoder and decoder; in 16 bits two take the memory of one in 32, and coarse layers fill a GPU better
_LATENTS_AT_ONCE = {torch.float16: 2}
_HAS_TRITON = importlib.util.find_spec("triton") is not None


def make_fast(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Let `vae` compute as this module does, and return it.

    Only classes of its layers change, and how often it calls them. Names and parameters stay as they are, so it is
    saved, moved and trained as before. Of a VAE in the layout of Wan2.2-TI2V-5B, no frames are left out.
    """
    faster: dict[type, type] = {
        WanCausalConv3d: FastCausalConv3d,
        WanResidualBlock: FastResidualBlock,
        WanAttentionBlock: StripAttentionBlock,
    }
    for module in vae.modules():
        module.__class__ = faster.get(type(module), module.__class__)
        if isinstance(module, WanResample) and module.mode.startswith("upsample"):
            module.resample[1].__class__ = StripConv2d
    if not vae.config.is_residual and vae.config.patch_size is None:
        vae.decoder.__class__ = FastDecoder
        vae._encode = MethodType(_encode, vae)
        vae._decode = MethodType(_decode, vae)
    return vae


def fit_device(vae: AutoencoderKLWan, device: torch.device | str) -> AutoencoderKLWan:
    """Give `vae` the dtype in which it computes on a device, float16 on an NVIDIA or AMD GPU, and return it."""
    return vae.half() if torch.device(device).type == "cuda" else vae


class FastCausalConv3d(WanCausalConv3d):
    """A `WanCausalConv3d` that pads no pictures in memory; on a CPU by 2-D convolutions, where these are faster.

    Attributes:
        strip: of pictures, where it convolves no whole ones.
    """

    strip: Strip | None = None

    def forward(self, x: Tensor, cache_x: Tensor | None = None, biased: bool = True) -> Tensor:
        """[B, C_in, F, H, W] -> [B, C_out, F', H', W']; `cache_x` has the frames before, zeros where there are none.

        Results differ from those of `WanCausalConv3d` by the rounding of sums in another order. In a
        `FastResidualBlock` with kernels, one of these adds the bias, and this does not.
        """
        on_cpu = x.device.type == "cpu"
        # training needs the gradient of every tap, those that are zero so far included
        trained = torch.is_grad_enabled() and self.weight.requires_grad
        if trained or not (on_cpu or x.dtype == torch.float16 or self.strip):
            return super().forward(x, cache_x)
        width, _, height, _, past, _ = self._padding
        if cache_x is not None and past > 0:
            x = torch.cat([cache_x.to(x.device), x], dim=2)
            past -= cache_x.shape[2]
        if past > 0:
            x = F.pad(x, (0, 0, 0, 0, past, 0))
        if self.strip and width:
            x, width = self.strip.with_edges(x, width), 0
        depth, stride, padding = self.kernel_size[0], self.stride[0], (height, width)
        bias = self.bias if biased else None
        if not on_cpu:
            x = x.contiguous(memory_format=torch.channels_last_3d)
            return F.conv3d(x, self.weight, bias, self.stride, (0, *padding))
        # looked up at every call, which costs little beside the convolution, since other weights may be loaded
        taps = [tap for tap in range(depth) if tap == depth - 1 or bool(self.weight[:, :, tap].any())]
        large = x.shape[0] > 1 or x.shape[:4].numel() > ONEDNN_ELEMENTS
        if len(taps) == depth and large:
            return F.conv3d(x, self.weight, bias, self.stride, (0, *padding))

        frames = (x.shape[2] - depth) // stride + 1
        seen = [x[:, :, tap : tap + (frames - 1) * stride + 1 : stride] for tap in taps]
        pictures = (torch.cat(seen, dim=1) if len(seen) > 1 else seen[0]).transpose(1, 2).flatten(0, 1)
        made = F.conv2d(
            # oneDNN's own order, which everything up to the next convolution keeps
            pictures.contiguous(memory_format=torch.channels_last),
            self.weight[:, :, taps].transpose(1, 2).flatten(1, 2),
            bias,
            self.stride[1:],
            padding,
        )
        return made.unflatten(0, (-1, frames)).transpose(1, 2)


class FastResidualBlock(WanResidualBlock):
    """A `WanResidualBlock` whose norms, activations, biases and sum are three kernels on a GPU."""

    def forward(self, x: Tensor, feat_cache: list[Any] | None = None, feat_idx: list[int] | None = None) -> Tensor:
        """[B, C_in, F, H, W] -> [B, C_out, F, H, W]; `feat_cache` and `feat_idx` as diffusers has them."""
        feat_idx = [0] if feat_idx is None else feat_idx
        if not _has_kernels(self, x):
            made: Tensor = super().forward(x, feat_cache, feat_idx)
            return made
        from wanavatar_lab.wan.vae_kernels import add, norm_silu

        before, bias = x, self.conv2.bias
        if not isinstance(self.conv_shortcut, nn.Identity):
            before, bias = self.conv_shortcut(x, biased=False), bias + self.conv_shortcut.bias
        for norm, conv, missing in ((self.norm1, self.conv1, None), (self.norm2, self.conv2, self.conv1.bias)):
            x = norm_silu(x, norm.gamma, missing)
            x = _convolved(conv, x, feat_cache, feat_idx, biased=False)
        return add(x, before, bias)


def _has_kernels(block: nn.Module, x: Tensor) -> bool:
    """Whether `block` may compute `x` by Triton's kernels, which have no backward pass."""
    return (
        _HAS_TRITON
        and x.is_cuda
        and not torch.is_grad_enabled()
        # with offload by layers, weights may be elsewhere until their module is called
        and all((each.dtype, each.device) == (torch.float16, x.device) for each in (x, *block.parameters()))
    )


def _convolved(
    conv: nn.Module, x: Tensor, feat_cache: list[Any] | None, feat_idx: list[int], **options: bool
) -> Tensor:
    """What a causal convolution makes of the frames that follow those of the call before."""
    past = None
    if feat_cache is not None:
        place = feat_idx[0]
        past, feat_cache[place] = feat_cache[place], _last_frames(feat_cache[place], x)
        feat_idx[0] += 1
    made: Tensor = conv(x, past, **options)
    return made


def _last_frames(past: Tensor | None, x: Tensor) -> Tensor:
    """The frames that the next call of a causal convolution continues from."""
    last = x[:, :, -CACHE_T:]
    if last.shape[2] < CACHE_T and past is not None:
        return torch.cat([past[:, :, -1:].to(x.device), last], dim=2)
    return last.clone()


class FastDecoder(WanDecoder3d):
    """A `WanDecoder3d` that leaves out the first frames where they are not wanted, and may share pictures.

    Attributes:
        wanted: how many of the last frames of the next clip are; None is all.
        ranks: the processes that decode it together.
    """

    wanted: int | None = None
    ranks: Ranks = BY_ITSELF
    _cuts: "_Cuts | None" = None

    @contextmanager
    def clip(self, latents: int) -> Iterator[None]:
        """The calls within the block decode a clip of so many latents in order."""
        self._cuts = _Cuts(self, latents, self.wanted)
        try:
            yield
        finally:
            self._cuts = None

    def forward(
        self,
        x: Tensor,
        feat_cache: list[Any] | None = None,
        feat_idx: list[int] | None = None,
        first_chunk: bool = False,
    ) -> Tensor:
        """The latents that follow [B, z, f, h, w] -> those frames that are wanted [B, 3, F, 8·h, 8·w]; F may be 0."""
        feat_idx = [0] if feat_idx is None else feat_idx
        strip, columns = None, x.shape[-1]
        if self._cuts is not None and 1 < self.ranks.world <= columns:
            shares = [len(share) for share in torch.arange(columns).tensor_split(self.ranks.world)]
            strip = Strip(self.ranks, tuple(shares))
        with in_strips(self, strip):
            made = self._decoded(x if strip is None else strip.part(x), feat_cache, feat_idx, first_chunk)
        return made if strip is None or not made.shape[2] else strip.whole(made)

    def _decoded(self, x: Tensor, feat_cache: list[Any] | None, feat_idx: list[int], first_chunk: bool) -> Tensor:
        if self._cuts is None or feat_cache is None:
            made: Tensor = super().forward(x, feat_cache, feat_idx, first_chunk)
            return made

        x = self.mid_block(_convolved(self.conv_in, x, feat_cache, feat_idx), feat_cache=feat_cache, feat_idx=feat_idx)
        for block, (before, after) in zip(self.up_blocks, self._cuts.blocks, strict=True):
            x = before(x)
            if not x.shape[2]:  # nor do finer layers need any of it
                return x.new_empty(x.shape[0], self.conv_out.out_channels, 0, 0, 0)
            for resnet in block.resnets:
                x = resnet(x, feat_cache=feat_cache, feat_idx=feat_idx)
            x = after(x)
            if not x.shape[2]:
                return x.new_empty(x.shape[0], self.conv_out.out_channels, 0, 0, 0)
            for upsampler in block.upsamplers or ():
                if upsampler.mode == "upsample3d" and after.start and feat_cache[feat_idx[0]] is None:
                    feat_cache[feat_idx[0]] = "Rep"  # only the clip's first frame is not doubled
                x = upsampler(x, feat_cache=feat_cache, feat_idx=feat_idx)
        x = self.nonlinearity(self.norm_out(x))
        return self._cuts.last(_convolved(self.conv_out, x, feat_cache, feat_idx))


class _Cut:
    """Leaves out what comes before a frame, of frames that pass in order.

    Args:
        start: the first frame that is let through.
        arriving: the first one that comes.
    """

    def __init__(self, start: int, arriving: int) -> None:
        self.start, self._left_out = start, start - arriving

    def __call__(self, x: Tensor) -> Tensor:
        """[B, C, F, H, W] but for the frames that are left out."""
        now = min(self._left_out, x.shape[2])
        self._left_out -= now
        return x[:, :, now:]


class _Cuts:
    """Where a decoder leaves out frames, so that the last ones of a clip are what they would be without.

    Args:
        decoder: of a clip.
        latents: of the clip.
        wanted: how many of its frames; None is all.

    Attributes:
        blocks: for each of `up_blocks`, before its residual blocks and before its upsampler.
        last: of the frames.
    """

    def __init__(self, decoder: WanDecoder3d, latents: int, wanted: int | None) -> None:
        blocks = list(decoder.up_blocks)
        doubles = [any(layer.mode == "upsample3d" for layer in block.upsamplers or ()) for block in blocks]
        total = 1 + (latents - 1) * 2 ** sum(doubles)
        first = max(0, total - (total if wanted is None else wanted))
        # a causal convolution of three taps sees two frames before; frame k becomes 2k - 1 and 2k, the first stays one
        starts, start = [], max(0, first - CACHE_T)
        for block, doubled in zip(reversed(blocks), reversed(doubles), strict=True):
            after = max(0, (start + 1) // 2 - CACHE_T) if doubled else start
            start = max(0, after - 2 * CACHE_T * len(block.resnets))
            starts.append((start, after))
        self.blocks, arriving = [], 0
        for (before, after), doubled in zip(reversed(starts), doubles, strict=True):
            self.blocks.append((_Cut(before, arriving), _Cut(after, before)))
            arriving = max(0, 2 * after - 1) if doubled else after
        self.last = _Cut(first, arriving)


@contextmanager
def only_last_frames(vae: AutoencoderKLWan, wanted: int | None) -> Iterator[None]:
    """Let `vae.decode` compute no more than so many of a clip's last frames need; tiles are decoded whole."""
    if not isinstance(vae.decoder, FastDecoder):
        yield
        return
    vae.decoder.wanted = wanted
    try:
        yield
    finally:
        vae.decoder.wanted = None


@contextmanager
def _own_frames(vae: AutoencoderKLWan) -> Iterator[None]:
    """A clip within the block continues no other, and nothing of it stays in memory, however the block ends."""
    vae.clear_cache()
    try:
        yield
    finally:
        vae.clear_cache()


def _decode(self: AutoencoderKLWan, z: Tensor, return_dict: bool = True) -> Any:
    if _is_tiled(self, *(side * self.spatial_compression_ratio for side in z.shape[3:])):
        with _own_frames(self):
            return AutoencoderKLWan._decode(self, z, return_dict)
    made: list[Tensor] = []
    with _own_frames(self), self.decoder.clip(z.shape[2]):
        for part in self.post_quant_conv(z).split(_in_turn(z, 1), dim=2):
            self._conv_idx = [0]
            frames = self.decoder(part, self._feat_map, self._conv_idx)
            made += [frames] if frames.shape[2] else []
    sample = torch.cat(made, dim=2).clamp(-1.0, 1.0)
    return DecoderOutput(sample=sample) if return_dict else (sample,)


def _encode(self: AutoencoderKLWan, x: Tensor) -> Tensor:
    if _is_tiled(self, *x.shape[3:]):
        with _own_frames(self):
            encoded: Tensor = AutoencoderKLWan._encode(self, x)
        return encoded
    made: list[Tensor] = []
    with _own_frames(self):
        # a group of frames that is not whole is left out, as diffusers does
        for part in x[:, :, : (x.shape[2] - 1) // 4 * 4 + 1].split(_in_turn(x, 4), dim=2):
            self._enc_conv_idx = [0]
            made.append(self.encoder(part, feat_cache=self._enc_feat_map, feat_idx=self._enc_conv_idx))
    latents: Tensor = self.quant_conv(torch.cat(made, dim=2))
    return latents


def _is_tiled(vae: AutoencoderKLWan, height: int, width: int) -> bool:
    """Whether `vae` computes pictures of this size in pixels in tiles."""
    return bool(vae.use_tiling and (height > vae.tile_sample_min_height or width > vae.tile_sample_min_width))


def _in_turn(clip: Tensor, group: int) -> list[int]:
    """How many frames of `clip` are computed at a time: the first, then groups, the last of which may be smaller."""
    at_once, rest = group * _LATENTS_AT_ONCE.get(clip.dtype, 1), clip.shape[2] - 1
    return [1, *[at_once] * (rest // at_once), *([rest % at_once] if rest % at_once else [])]
