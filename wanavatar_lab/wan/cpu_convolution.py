"""Wan's causal convolutions on a CPU: over frames as pictures, where that is faster.

PyTorch computes a 3-D convolution in float32 by oneDNN only where the input is large. All others, which are most of a
small VAE's, go through `slow_conv3d_forward`: `weights/pocket/video_vae` decoded eight times as slowly. A 2-D
convolution over frames whose neighbours in time are stacked as channels is the same sum, oneDNN computes it on every
CPU, and neighbours whose weights are all zero need not be stacked.
"""

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d

# PyTorch leaves a 3-D convolution of one sample to oneDNN only above so many elements [C, F, H], the width not counted
# (`ConvParams::use_mkldnn` in aten/src/ATen/native/Convolution.cpp); for kernels of up to 3x3, as all of Wan's are
ONEDNN_ELEMENTS = 20480


class WanFrameConv3d(WanCausalConv3d):
    """A `WanCausalConv3d` that on a CPU computes 2-D convolutions where these are faster."""

    def forward(self, x: torch.Tensor, cache_x: torch.Tensor | None = None) -> torch.Tensor:
        """[B, C_in, F, H, W] -> [B, C_out, F', H', W']; `cache_x` has the frames before, zeros where there are none.

        Results differ from those of `WanCausalConv3d` by the rounding of sums in another order.
        """
        # training needs the gradient of every tap, those that are zero so far included
        if x.device.type != "cpu" or (torch.is_grad_enabled() and self.weight.requires_grad):
            return super().forward(x, cache_x)
        width, _, height, _, past, _ = self._padding
        if cache_x is not None and past > 0:
            x = torch.cat([cache_x.to(x.device), x], dim=2)
            past -= cache_x.shape[2]
        if past > 0:
            x = F.pad(x, (0, 0, 0, 0, past, 0))
        depth, stride, padding = self.kernel_size[0], self.stride[0], (height, width)
        # looked up at every call, which costs little beside the convolution, since other weights may be loaded
        taps = [tap for tap in range(depth) if tap == depth - 1 or bool(self.weight[:, :, tap].any())]
        large = x.shape[0] > 1 or x.shape[:4].numel() > ONEDNN_ELEMENTS
        if len(taps) == depth and large:
            return F.conv3d(x, self.weight, self.bias, self.stride, (0, *padding))

        frames = (x.shape[2] - depth) // stride + 1
        seen = [x[:, :, tap : tap + (frames - 1) * stride + 1 : stride] for tap in taps]
        pictures = (torch.cat(seen, dim=1) if len(seen) > 1 else seen[0]).transpose(1, 2).flatten(0, 1)
        made = F.conv2d(
            # oneDNN's own order, which everything up to the next convolution keeps
            pictures.contiguous(memory_format=torch.channels_last),
            self.weight[:, :, taps].transpose(1, 2).flatten(1, 2),
            self.bias,
            self.stride[1:],
            padding,
        )
        return made.unflatten(0, (-1, frames)).transpose(1, 2)


def convolve_by_frames(vae: AutoencoderKLWan) -> AutoencoderKLWan:
    """Make every causal convolution of `vae` a `WanFrameConv3d`, and return it.

    Only their class changes. Names and parameters stay as they are, so it is saved, moved and trained as before.
    """
    for module in vae.modules():
        if type(module) is WanCausalConv3d:
            module.__class__ = WanFrameConv3d
    return vae
