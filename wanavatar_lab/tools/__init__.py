"""Tools for recordings and videos, from file to file.

    from wanavatar_lab import tools

    tools.trim("talk.mp4", "part.mp4", start=1.5, duration=4.0)
    print(tools.measure_loudness("voice.wav"))

Every function but `measure_loudness` writes its second argument, whole or not at all, and returns what is in it. Files
are read as `wanavatar_lab.media` reads them: as far as they can be decoded, with a loss logged. `MediaError` says what
cannot be read or written, `DiskFull` that there is no room.

`progress` is called with the number of frames or parts that are done and that there are; `metadata` is written into
the file. The same tools are requests (`wanavatar_lab.requests.tools`), with a run folder for each result.

    sound           extract_audio, resample
    loudness        measure_loudness, normalize_loudness
    video           extract_frame, trim, concatenate
    interpolation   interpolate_frames
    vocals          separate_vocals, VocalSeparator
"""

from wanavatar_lab.tools.interpolation import interpolate_frames
from wanavatar_lab.tools.loudness import Loudness, Normalized, measure_loudness, normalize_loudness
from wanavatar_lab.tools.sound import extract_audio, resample
from wanavatar_lab.tools.video import concatenate, extract_frame, trim
from wanavatar_lab.tools.vocals import VocalSeparator, separate_vocals

__all__ = [
    "Loudness",
    "Normalized",
    "VocalSeparator",
    "concatenate",
    "extract_audio",
    "extract_frame",
    "interpolate_frames",
    "measure_loudness",
    "normalize_loudness",
    "resample",
    "separate_vocals",
    "trim",
]


def __dir__() -> list[str]:
    return __all__
