"""What one segment hands to the next: its last frames, as pixels and as latents, and where the next one starts."""

import torch

from .frames import START_PICTURE_FRAMES, LatentCodec

FIRST_FRAMES_LOST = 3  # the first decoded frames of a clip are the reference picture's own and are dropped


class Continuation:
    """The frames before the current segment.

    Attributes:
        ref_latents: latents of the reference picture [1, z, 1, h, w].
        motion_latents: latents of the frames before [1, z, T, h, w]; None before a free start.
        start_frame: where the current segment's first frame lies, in frames from the audio's start.

    Args:
        codec: the VAE.
        picture: the reference picture [1, 3, 1, H, W] in [-1, 1].
        motion_frames: how many frames are handed on.
        from_picture: whether the clip continues from the picture itself instead of starting freely.
        device: where latents go.
    """

    def __init__(
        self, codec: LatentCodec, picture: torch.Tensor, motion_frames: int, from_picture: bool, device: torch.device
    ) -> None:
        self._codec, self._device = codec, device
        self._frames = torch.zeros(1, 3, motion_frames, *picture.shape[3:])
        self.ref_latents = codec.encode(picture, device)
        self.motion_latents: torch.Tensor | None = None
        self.start_frame = FIRST_FRAMES_LOST
        if from_picture:
            self._frames[:, :, -START_PICTURE_FRAMES:] = picture
            self.start_frame = 0
            self._encode_motion()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """The segment's frames [1, F, 3, H, W] in [0, 1] on the CPU; the last of them are kept for the next segment."""
        # what stands before the new latents sets the state of the causal decoder
        before = self.ref_latents if self.motion_latents is None else self.motion_latents
        decoded = self._codec.decode(torch.cat([before, latents], dim=2))[:, :, -4 * latents.shape[2] :].cpu()
        if self.motion_latents is None:
            decoded = decoded[:, :, FIRST_FRAMES_LOST:]
        kept = min(self._frames.shape[2], decoded.shape[2])
        self._frames = torch.cat([self._frames[:, :, kept:], decoded[:, :, -kept:]], dim=2)
        return (decoded / 2 + 0.5).clamp(0, 1).transpose(1, 2)

    def advance(self, frames: int) -> None:
        """Go on to the segment after one of `frames` frames."""
        self.start_frame += frames
        self._encode_motion()

    @torch.no_grad()
    def _encode_motion(self) -> None:
        self.motion_latents = self._codec.encode(self._frames, self._device)
