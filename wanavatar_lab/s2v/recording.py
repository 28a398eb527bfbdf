"""Dubbing: a part of a recording is made anew, and all else stays as it was recorded.

Any S2V network can do so: after each step the latents outside of the mask are overwritten by those of the recording, at
the noise of that step, and after decoding the frames are laid into the recording's own. A network that was trained for
inpainting (`inpaint.py`) is shown the recording in its own channels too.
"""

from dataclasses import dataclass
from functools import cached_property

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

    @cached_property
    def anew(self) -> torch.Tensor:
        """Which latents are made anew [1, 1, F/4, H/8, W/8]: those of which any pixel is."""
        stride = (FRAMES_PER_LATENT, SPATIAL_STRIDE, SPATIAL_STRIDE)
        return F.max_pool3d(self.mask, stride).to(self.latents.device) > 0

    def overwrite(self, latents: torch.Tensor, noise: torch.Tensor, sigma: float) -> torch.Tensor:
        """Latents [1, z, F/4, H/8, W/8] at a noise level, with those of the recording wherever nothing is made anew.

        Args:
            noise: that the segment began with, of the same shape.
            sigma: the noise level, 1 is pure noise and 0 none.
        """
        return torch.where(self.anew, latents, (1 - sigma) * self.latents + sigma * noise)

    def given(self, codec: LatentCodec, device: torch.device) -> torch.Tensor:
        """What a network that was trained for inpainting is shown; see `inpaint.encode_given`."""
        return encode_given(codec, self.pixels, (self.mask == 0).float(), device)

    def composite(self, decoded: torch.Tensor) -> torch.Tensor:
        """The decoded frames [1, 3, F, H, W] in [-1, 1] laid into the recording, by the mask.

        They are shifted to the colours that the recording has in the soft edge, where both show the same.
        """
        # frame by frame, since a segment of 720p has a gigabyte
        frames = [(self.pixels[:, :, i], self.mask[:, :, i], decoded[:, :, i]) for i in range(decoded.shape[2])]
        shifts = []
        for recorded, mask, made in frames:
            edge = mask * (1 - mask)
            shifts.append((edge * (recorded - made)).sum(dim=(2, 3)) / edge.sum(dim=(2, 3)).clamp(min=1e-6))
        # evenly over near frames, since a mouth that reaches into the edge must not change the whole face's colour
        shift = F.avg_pool1d(torch.stack(shifts, 2), STEADY, stride=1, padding=STEADY // 2, count_include_pad=False)
        found = torch.empty_like(decoded)
        for i, (recorded, mask, made) in enumerate(frames):
            found[:, :, i] = recorded + mask * ((made + shift[:, :, i, None, None]).clamp(-1, 1) - recorded)
        return found
