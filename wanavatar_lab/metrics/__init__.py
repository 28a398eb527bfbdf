"""What a talking clip is worth, measured from its frames and its sound: lips in sync, the same person, no jumps.

sync.py       loudness per video frame, and how well a mouth follows it
mouth.py      how far a mouth is open, from landmarks
colour.py     colours as people tell them apart: Lab and CIEDE2000
identity.py   hair, skin, clothes and background against the reference picture, segment by segment
motion.py     how much moves, and whether segments join without a jump

Nothing here finds a face: landmarks and masks come from a source that the caller gives, a `LandmarkSource` or a
`RegionSource`. High marks for sync can go with a person who is lost, so look at all of them together.
"""

from wanavatar_lab.metrics.identity import (
    REGIONS,
    Likeness,
    Region,
    RegionSource,
    delta_e2000,
    likeness,
    region_colours,
    srgb_to_lab,
)
from wanavatar_lab.metrics.lip_sync import (
    FPS,
    LandmarkSource,
    LipSync,
    best_lag,
    correlation,
    decibels,
    lip_sync,
    loudness,
    mouth_opening,
    opening_from_landmarks,
    silent_frames,
)
from wanavatar_lab.metrics.motion import Borders, border_jumps, frame_differences, segment_borders

__all__ = [
    "FPS",
    "REGIONS",
    "Borders",
    "LandmarkSource",
    "Likeness",
    "LipSync",
    "Region",
    "RegionSource",
    "best_lag",
    "border_jumps",
    "correlation",
    "decibels",
    "delta_e2000",
    "frame_differences",
    "likeness",
    "lip_sync",
    "loudness",
    "mouth_opening",
    "opening_from_landmarks",
    "region_colours",
    "segment_borders",
    "silent_frames",
    "srgb_to_lab",
]
