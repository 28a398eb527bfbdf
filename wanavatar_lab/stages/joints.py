"""Joints between the segments of a clip, so that nobody sees them, and colours held where they began.

Each segment begins with a picture that the networks made, so that what the autoencoder and the denoising do to colours
adds up from segment to segment. Means and spreads of red, green and blue are put right, as in E. Reinhard et al.,
"Color transfer between images", 2001: at a segment's beginning to those of the frame that it goes on from, and from
there little by little to those of the clip's first picture.
"""

import torch

# the most that is put right: a factor of the spread, and a part of full brightness; what a prompt changes is larger
LARGEST_GAIN = 1.1
LARGEST_SHIFT = 0.04
_LEAST_SPREAD = 1 / 255  # a plain channel has none to compare


def joined(frames: torch.Tensor, before: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """A segment as it goes on from the one before.

    Args:
        frames: of the segment, [1, 3, F, H, W] in [0, 1]; the first one shows what `before` shows.
        before: the frame that it goes on from, [1, 3, H, W].
        first: the picture that the clip began with, [1, 3, H, W].

    Returns:
        Frames [1, 3, F - 1, H, W] in [0, 1], without the one that would be there twice.
    """
    gain_before, shift_before = _correction(frames[:, :, 0], before)
    gain_first, shift_first = _correction(frames[:, :, -1], first)
    part = torch.linspace(0, 1, frames.shape[2]).view(1, 1, -1, 1, 1)
    gain = gain_before + (gain_first - gain_before) * part
    shift = shift_before + (shift_first - shift_before) * part
    mean = frames.mean(dim=(3, 4), keepdim=True)
    return ((frames - mean) * gain + mean + shift)[:, :, 1:].clamp(0, 1)


def _correction(frame: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What takes a frame's colours to those of another: a gain around the mean and a shift, [1, 3, 1, 1, 1] each."""
    spreads = [picture.std(dim=(2, 3)).clamp(min=_LEAST_SPREAD) for picture in (frame, wanted)]
    gain = (spreads[1] / spreads[0]).clamp(1 / LARGEST_GAIN, LARGEST_GAIN)
    shift = (wanted.mean(dim=(2, 3)) - frame.mean(dim=(2, 3))).clamp(-LARGEST_SHIFT, LARGEST_SHIFT)
    return gain[..., None, None, None], shift[..., None, None, None]
