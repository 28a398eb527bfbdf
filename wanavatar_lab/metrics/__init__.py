"""Measures of a talking clip from its frames and its sound: lips in sync, the same person, no jumps.

lip_sync             loudness per video frame, and how well a mouth follows it
identity             colours of hair, skin, clothes and background against the reference picture, segment by segment
motion               how much moves, and whether segments join without a jump
landmarks            outlines of face and lips in frames, from one of several sources
mediapipe_landmarks  the usual source, for any video
evaluate             all of these of one clip, from its file
evaluation_picture   what was measured as a picture; `lip_curves(clip)`, the opening of the mouth against the loudness

High marks for sync can go with a person who is lost, so look at all of them together.
"""

from typing import TYPE_CHECKING, Any

from wanavatar_lab.metrics.identity import REGIONS, RegionSource, delta_e2000, likeness, region_colours, srgb_to_lab
from wanavatar_lab.metrics.lip_sync import FPS, LipSync, best_lag, correlation, decibels, lip_sync, loudness
from wanavatar_lab.metrics.motion import border_jumps, frame_differences, segment_borders

if TYPE_CHECKING:
    from wanavatar_lab.metrics.evaluation_picture import lip_curves

__all__ = [
    "FPS",
    "REGIONS",
    "LipSync",
    "RegionSource",
    "best_lag",
    "border_jumps",
    "correlation",
    "decibels",
    "delta_e2000",
    "frame_differences",
    "likeness",
    "lip_curves",
    "lip_sync",
    "loudness",
    "region_colours",
    "segment_borders",
    "srgb_to_lab",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name == "lip_curves":  # matplotlib, media and faces take seconds to import, and few who measure draw
        from wanavatar_lab.metrics.evaluation_picture import lip_curves

        return lip_curves
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
