"""Dubbing: a part of a recording is made anew, and all else stays as it was recorded.

Any S2V network can do so: after each step the latents outside of the mask are overwritten by those of the recording, at
the noise of that step, and after decoding the frames are laid into the recording's own. A network that was trained for
inpainting (`inpaint.py`) is shown the recording in its own channels too.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from wanavatar_lab.s2v.inpaint import FRAMES_PER_LATENT, encode_given
from wanavatar_lab.wan.latents import Frames, LatentCodec

SPATIAL_STRIDE = 8  # pixels of a latent
STEADY = 9  # frames over which the shift of colours is averaged


@dataclass(frozen=True)
class RecordedSegment:
    """What a segment keeps of a recording.

    Args:
        pixels: of the recording [1, 3, F, H, W] in [-1, 1].
        mask: how much of each pixel is made anew [1, 1, F, H, W], 0 to 1.
        latents: of `pixels` [1, z, F/4, H/8, W/8], normalised.
    """

    pixels: torch.Tensor
    mask: torch.Tensor
    latents: torch.Tensor

    @classmethod
    def read(
        cls,
        codec: LatentCodec,
        video: Frames,
        mask: Frames,
        window: slice,
        before: torch.Tensor,
        device: torch.device,
    ) -> "RecordedSegment":
        """The frames `window` of a recording; beyond its end all is made anew.

        Args:
            codec: the VAE.
            video, mask: [F, 3, H, W] and [F, 1, H, W] in [0, 1].
            before: the frames that the segment continues from [1, 3, T, H, W] in [-1, 1], T = 4n + 1, on which the
                latents of a causal VAE depend.
            device: where latents go.
        """
        count, size = window.stop - window.start, before.shape[3:]
        pixels, made = torch.zeros(count, 3, *size), torch.ones(count, 1, *size)
        recorded, masked = video[window].float().cpu(), mask[window].float().cpu()
        found = min(len(recorded), len(masked))
        pixels[:found], made[:found] = recorded[:found] * 2 - 1, masked[:found]
        pixels, made = pixels.transpose(0, 1)[None], made.transpose(0, 1)[None]
        latents = codec.encode(torch.cat([before, pixels], dim=2), device)[:, :, -(count // FRAMES_PER_LATENT) :]
        return cls(pixels, made, latents)

    def overwrite(self, latents: torch.Tensor, noise: torch.Tensor, sigma: float) -> torch.Tensor:
        """Latents [1, z, F/4, H/8, W/8] at a noise level, with those of the recording wherever nothing is made anew.

        Args:
            noise: that the segment began with, of the same shape.
            sigma: the noise level, 1 is pure noise and 0 none.
        """
        stride = (FRAMES_PER_LATENT, SPATIAL_STRIDE, SPATIAL_STRIDE)
        # a latent is made anew if any pixel of it is
        made = F.max_pool3d((self.mask > 0).float(), stride).to(latents.device)
        return torch.where(made > 0, latents, (1 - sigma) * self.latents + sigma * noise)

    def given(self, codec: LatentCodec, device: torch.device) -> torch.Tensor:
        """What a network that was trained for inpainting is shown; see `inpaint.encode_given`."""
        return encode_given(codec, self.pixels, (self.mask == 0).float(), device)

    def composite(self, decoded: torch.Tensor) -> torch.Tensor:
        """The decoded frames [1, 3, F, H, W] in [-1, 1] laid into the recording, by the mask.

        They are shifted to the colours that the recording has in the soft edge, where both show the same.
        """
        edge = self.mask * (1 - self.mask)
        shift = (edge * (self.pixels - decoded)).sum(dim=(3, 4)) / edge.sum(dim=(3, 4)).clamp(min=1e-6)
        # evenly over near frames, since a mouth that reaches into the edge must not change the whole face's colour
        shift = F.avg_pool1d(shift, STEADY, stride=1, padding=STEADY // 2, count_include_pad=False)
        return self.pixels + self.mask * ((decoded + shift[..., None, None]).clamp(-1, 1) - self.pixels)
