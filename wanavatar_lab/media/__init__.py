"""Pictures, video and sound: read what people have, write what every browser plays.

What any player plays is read, as far as it goes: a file that is cut or damaged gives what can be decoded, and what is
missing is logged with both lengths and kept on the result (`Audio.missing`, `MediaInfo.missing`). `MediaError` refuses
what is absent, empty, too large for the `Settings`, or holds nothing that can be decoded. Written files appear whole
or not at all (`DiskFull` when there is no room).

    pictures       read_picture, write_picture
    samples        read_samples, write_samples, which keep transparency, 16 bits and grey
    audio          Audio
    audio_reader   read_audio, read_peaks (the outline of a recording, to be drawn)
    audio_writer   write_audio
    video_reader   read_frames, read_frame
    hdr            HDR and wide-gamut frames in the colours of BT.709
    video_writer   VideoWriter, TalkingClipWriter and write_talking_clip (picture and voice in sync), BackgroundWriter
                   (beside what makes the frames), keep_partial
    probe          probe, MediaInfo, read_metadata (what write_picture and VideoWriter were given)
    embed          a file inside a page, as HTML
    container      opening files for reading and writing, and what is missing of them
    timing         frame rates and times as exact fractions
"""

from wanavatar_lab.media.audio import Audio
from wanavatar_lab.media.audio_reader import Peaks, read_audio, read_peaks
from wanavatar_lab.media.audio_writer import write_audio
from wanavatar_lab.media.pictures import read_picture, write_picture
from wanavatar_lab.media.probe import MediaInfo, probe, read_metadata
from wanavatar_lab.media.samples import Samples, read_samples, write_samples
from wanavatar_lab.media.video_reader import read_frame, read_frames
from wanavatar_lab.media.video_writer import (
    BackgroundWriter,
    TalkingClipWriter,
    VideoWriter,
    keep_partial,
    write_talking_clip,
)

__all__ = [
    "Audio",
    "BackgroundWriter",
    "MediaInfo",
    "Peaks",
    "Samples",
    "TalkingClipWriter",
    "VideoWriter",
    "keep_partial",
    "probe",
    "read_audio",
    "read_frame",
    "read_frames",
    "read_metadata",
    "read_peaks",
    "read_picture",
    "read_samples",
    "write_audio",
    "write_picture",
    "write_samples",
    "write_talking_clip",
]


def __dir__() -> list[str]:
    return __all__
