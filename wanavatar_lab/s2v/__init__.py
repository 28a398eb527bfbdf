"""Wan2.2 speech-to-video as diffusers classes: the network, its checkpoints and its pipeline."""

from wanavatar_lab.s2v.pipeline import WanS2VSegment, WanSpeechToVideoOutput, WanSpeechToVideoPipeline
from wanavatar_lab.s2v.transformer import SegmentMemory, WanS2VTransformer3DModel

__all__ = [
    "SegmentMemory",
    "WanS2VSegment",
    "WanS2VTransformer3DModel",
    "WanSpeechToVideoOutput",
    "WanSpeechToVideoPipeline",
]


def __dir__() -> list[str]:
    return __all__
