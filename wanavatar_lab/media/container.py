"""Opening media files through PyAV, for reading and for writing; FFmpeg's errors in words a user can act on."""

import contextlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream

from wanavatar_lab.errors import MediaError
from wanavatar_lab.files import OUT_OF_ROOM, whole_file
from wanavatar_lab.media.timing import declared_end, sound_and_picture
from wanavatar_lab.media.wholeness import check_whole
from wanavatar_lab.settings import Settings

# Not containers: playlists and scripts that make FFmpeg open other files or addresses, devices, headerless samples
# (any text would do), and text or pictures dressed as video.
REFUSED_FORMATS = (
    {"hls", "dash", "webm_dash_manifest", "concat", "concatf", "imf", "sdp", "rtp", "rtsp", "sap", "ffmetadata"}
    | {"alsa", "fbdev", "kmsgrab", "lavfi", "oss", "video4linux2,v4l2", "x11grab"}
    | {"data", "bin", "rawvideo", "tty", "image2", "image2pipe", "alias_pix", "brender_pix", "v210", "v210x"}
    | {"alaw", "mulaw", "vidc", "s8", "u8"}
    | {f"{kind}{bits}{end}" for kind in "su" for bits in (16, 24, 32) for end in ("le", "be")}
    | {f"f{bits}{end}" for bits in (32, 64) for end in ("le", "be")}
)
# How much earlier than stated a file may end, in seconds, by container. Only these state a length in their header;
# for the others FFmpeg guesses one from the bit rate, which says nothing.
STATED_LENGTH_SLACK = {
    "flac": Fraction(1, 1000),
    "wav": Fraction(1, 1000),
    "aiff": Fraction(1, 1000),
    "w64": Fraction(1, 1000),
    "au": Fraction(1, 1000),
    "mov,mp4,m4a,3gp,3g2,mj2": Fraction(1, 10),
    "matroska,webm": Fraction(1, 10),
    "ogg": Fraction(1, 10),
    "avi": Fraction(1, 10),
    "asf": Fraction(1, 2),
    "flv": Fraction(1, 2),
}
MOST_THREADS = 8


def threads() -> int:
    """Threads for one decoder or encoder: more of them hold more frames in memory and gain little."""
    return min(MOST_THREADS, os.cpu_count() or 1)


def existing_file(path: Path | str, settings: Settings) -> Path:
    """`path`, if it is a file that may be read.

    Raises:
        MediaError: it is missing, a folder or a device, empty, or larger than `settings.max_media_bytes`.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise MediaError(f"{path} is a folder. Give a file in it.")
        if not path.exists():
            raise MediaError(f"There is no file {path}. Check the name and the folder.")
        if not path.is_file():
            raise MediaError(f"{path} is not an ordinary file. Save it as a file and give that.")
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise MediaError(f"{path!r} cannot be opened: {error}. Check the name and its permissions.") from error
    if size == 0:
        raise MediaError(f"{path} is empty (0 bytes). Copy, download or export it again.")
    if size > settings.max_media_bytes:
        raise MediaError(
            f"{path} has {size:,} bytes and the limit is {settings.max_media_bytes:,}. "
            "Give a smaller file, or raise WANAVATAR_MAX_MEDIA_BYTES."
        )
    return path


@contextmanager
def reading(path: Path | str, settings: Settings) -> Iterator[InputContainer]:
    """Open a video or audio file that has been checked to be whole; close it at the end.

    Raises:
        MediaError: the file cannot be read, or, from inside the `with` block, cannot be decoded.
    """
    path = existing_file(path, settings)
    try:
        check_whole(path)
        options = {
            "protocol_whitelist": "file",
            "format_whitelist": _accepted_formats(),
            "max_pixels": str(settings.max_video_pixels),
        }
        with av.open(f"file:{path.absolute()}", options=options, metadata_errors="replace") as container:
            yield container
    except av.FFmpegError as error:
        raise MediaError(
            f"{path} cannot be read as video or audio ({error.strerror}). "
            "It is damaged or of another kind; export it again, for example as MP4 or WAV."
        ) from error
    except (OSError, OverflowError, UnicodeError) as error:
        raise MediaError(f"{path} cannot be read: {error}. Check its permissions, or export it again.") from error


def packets(container: InputContainer, path: Path | str) -> Iterator["Packet[Stream]"]:
    """All packets of picture and sound; empty ones at the end flush the decoders.

    Raises:
        MediaError: a packet was cut, or the file ends earlier than its header says.
    """
    streams = sound_and_picture(container)
    reached = Fraction(0)
    for packet in container.demux(streams):
        # the last packet of a WAV that a recorder left without a length is shorter than FFmpeg asked for
        if packet.is_corrupt and container.format.name != "wav":
            raise MediaError(f"{path} is cut short or damaged near {float(reached):.2f} s. Copy or export it again.")
        time = packet.pts if packet.pts is not None else packet.dts
        if time is not None and packet.time_base:
            reached = max(reached, (time + (packet.duration or 0)) * packet.time_base)
        yield packet
    stated = declared_end(container)
    slack = STATED_LENGTH_SLACK.get(container.format.name)
    if stated is not None and slack is not None and reached < stated - slack:
        raise MediaError(
            f"{path} is cut short: it states {float(stated):.2f} s and ends after {float(reached):.2f} s. "
            "Copy, download or export it again."
        )


@contextmanager
def writing(path: Path | str, options: Mapping[str, str] | None = None) -> Iterator[OutputContainer]:
    """Open a file for writing; its container is chosen by the suffix. It appears whole at the end or not at all.

    Raises:
        MediaError: the folder is missing or cannot be written to, or FFmpeg refuses what is written.
        DiskFull: there is no room.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise MediaError(f"The folder {path.parent} does not exist. Make it, or choose another one for {path.name}.")
    try:
        with whole_file(path) as temporary:
            container = av.open(f"file:{temporary.absolute()}", "w", options=dict(options or {}))
            try:
                yield container
                container.close()
            except BaseException:
                # the file is thrown away, so only the first error is worth telling
                with contextlib.suppress(av.FFmpegError):
                    container.close()
                raise
    except av.FFmpegError as error:
        if error.errno in OUT_OF_ROOM:
            raise
        raise MediaError(
            f"{path} cannot be written: {error.strerror}. Check the folder and its permissions."
        ) from error


@cache
def _accepted_formats() -> str:
    names = {name for name in av.formats_available if av.format.ContainerFormat(name).is_input}
    return ",".join(sorted(name for name in names - REFUSED_FORMATS if not name.endswith("_pipe")))
