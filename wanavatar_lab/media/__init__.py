"""Pictures, video and sound: read what people have, write what every browser plays.

Every function refuses with `MediaError` what is missing, empty, damaged, cut short or too large, and writes files
that appear whole or not at all (`DiskFull` when there is no room). Limits are `Settings`; what "cut short" means for
each container is written in `wholeness`.

    pictures       read_picture, write_picture
    audio          Audio
    audio_reader   read_audio, extract_audio
    audio_writer   write_audio
    peaks          read_peaks: the outline of a recording, to be drawn
    video_reader   read_frames, read_frame
    video_writer   VideoWriter
    talking_clip   write_talking_clip: picture and voice in sync
    probe          probe, MediaInfo
    container, timing, wholeness: opening files, their clocks, and whether they are complete
"""

from wanavatar_lab.media.audio import Audio
from wanavatar_lab.media.audio_reader import Peaks, extract_audio, read_audio, read_peaks
from wanavatar_lab.media.audio_writer import write_audio
from wanavatar_lab.media.pictures import read_picture, write_picture
from wanavatar_lab.media.probe import MediaInfo, probe
from wanavatar_lab.media.video_reader import read_frame, read_frames
from wanavatar_lab.media.video_writer import VideoWriter, write_talking_clip

__all__ = [
    "Audio",
    "MediaInfo",
    "Peaks",
    "VideoWriter",
    "extract_audio",
    "probe",
    "read_audio",
    "read_frame",
    "read_frames",
    "read_peaks",
    "read_picture",
    "write_audio",
    "write_picture",
    "write_talking_clip",
]
