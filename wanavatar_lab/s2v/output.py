"""What the S2V pipeline gives back."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput


@dataclass
class WanS2VSegment:
    """One finished segment.

    Args:
        frames: [1, F, 3, H, W] in [0, 1] on the CPU.
        index: number of the segment, from 0.
        num_segments: how many there will be.
        start_frame: where its first frame lies, in frames from the audio's start.
    """

    frames: torch.Tensor
    index: int
    num_segments: int
    start_frame: int


@dataclass
class WanSpeechToVideoOutput(BaseOutput):
    """A finished clip.

    Args:
        frames: [1, F, 3, H, W] in [0, 1] (`output_type="pt"`), [1, F, H, W, 3] (`"np"`) or lists of PIL images.
        start_frame: the first frame belongs to audio time `start_frame / fps`.
        fps: frames per second.
    """

    frames: Any
    start_frame: int
    fps: int
