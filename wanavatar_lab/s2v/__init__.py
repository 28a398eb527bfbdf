"""Wan2.2 speech-to-video as diffusers classes: the network, its checkpoints and its pipeline."""

from .memory import SegmentMemory
from .output import WanS2VSegment, WanSpeechToVideoOutput
from .pipeline import WanSpeechToVideoPipeline
from .transformer import WanS2VTransformer3DModel

__all__ = [
    "SegmentMemory",
    "WanS2VSegment",
    "WanS2VTransformer3DModel",
    "WanSpeechToVideoOutput",
    "WanSpeechToVideoPipeline",
]
