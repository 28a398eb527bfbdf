"""Opening media files through PyAV, for reading and for writing; FFmpeg's errors in words a user can act on.

Is a media file whole? Answered from the sizes that its own container states, before anything is decoded.

FFmpeg plays what is left of a file that was cut and says nothing. Here such a file is refused. What is checked,
and so what can honestly be known:

- MP4, MOV, M4A, 3GP: every top-level box ends inside the file.
- WAV, AVI, AIFF: every chunk ends inside the file.
- Matroska, WebM: the segment ends inside the file; of a live recording, which states no size, every block does.
- Ogg: the last page is complete and carries the end-of-stream mark.
- MP3: the byte count of the Xing or Info header fits the file, and the last frame is complete.
- MPEG-TS: the last packet is complete.

What these let through is caught while decoding, in `container.packets`: a packet that was cut, data that does
not decode, and an end that comes earlier than the header says. What no reader can know: a live WebM, MPEG-TS, MP3
without Xing header or raw stream that was cut exactly between two of its blocks is a shorter file of its kind.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import BinaryIO, Literal

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream

from wanavatar_lab.errors import MediaError
from wanavatar_lab.files import OUT_OF_ROOM, whole_file
from wanavatar_lab.media.timing import declared_end, sound_and_picture
from wanavatar_lab.settings import Settings

# streaming writers that cannot go back leave "unknown" as all ones (or as nearly 2 GiB), never a real size
UNKNOWN_SIZE = 0x7FFF0000
# a file with more boxes or chunks than this is left to the decoder, so that no file keeps this check busy
MOST_BOXES = 300_000
MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"moof", b"styp", b"sidx", b"uuid", b"pnot"}
OGG_TAIL = 2 * 65_307  # the largest Ogg page is 65,307 bytes
SEGMENT, CLUSTER = b"\x18\x53\x80\x67", b"\x1f\x43\xb6\x75"
TS_PACKET = 188  # bytes, each beginning with 0x47
MP3_TAIL = 16_384  # several frames: the largest has 1,441 bytes in MPEG-1, 2,881 in MPEG-2.5
# kbit/s of Layer III by the header's index, and Hz by version (MPEG-2.5, reserved, 2, 1) and index
MP3_KBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
MP3_RATES = {0: (11025, 12000, 8000), 2: (22050, 24000, 16000), 3: (44100, 48000, 32000)}


def check_whole(path: Path) -> None:
    """Compare the sizes that the container states with the file.

    Raises:
        MediaError: the file ends before its container does.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(16)
        if head[4:8] in MP4_BOXES:
            missing = _missing_in_boxes(file, size)
        elif head[:4] in (b"RIFF", b"FORM"):
            missing = _missing_in_chunks(file, size, "little" if head[:4] == b"RIFF" else "big")
        elif head[:4] == b"\x1a\x45\xdf\xa3":
            missing = _missing_in_segment(file, size)
        elif head[:4] == b"OggS":
            missing = _missing_in_ogg(file, size)
        elif head[:1] == b"G" and _begins_as_ts(file):
            missing = "its last packet is incomplete" if size % TS_PACKET else None
        else:
            missing = _missing_in_mp3(file, size)
    if missing:
        raise MediaError(f"{path} is cut short: {missing}. Copy, download or export it again.")


def _missing_in_boxes(file: BinaryIO, size: int) -> str | None:
    place = 0
    for _ in range(MOST_BOXES):
        file.seek(place)
        head = file.read(16)
        if len(head) < 8:
            return None
        length = int.from_bytes(head[:4], "big")
        name = head[4:8]
        if length == 0:  # "to the end of the file"
            return None
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if place + length > size:
            return f"its {_ascii(name)} box ends at byte {place + length:,} and the file at {size:,}"
        if length < 8:
            return None
        place += length
    return None


def _missing_in_chunks(file: BinaryIO, size: int, order: Literal["little", "big"]) -> str | None:
    for name, start, length in _chunks(file, order):
        # the pad byte after an odd chunk is often left out
        if length < UNKNOWN_SIZE and start + length > size:
            return f"its {_ascii(name)} chunk ends at byte {start + length:,} and the file at {size:,}"
    return None


def _chunks(file: BinaryIO, order: Literal["little", "big"]) -> Iterator[tuple[bytes, int, int]]:
    """(name, first byte of the content, length) of the chunks in a RIFF or FORM file."""
    place = 12
    for _ in range(MOST_BOXES):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8 or not head[:4].isascii():
            return
        length = int.from_bytes(head[4:8], order)
        yield head[:4], place + 8, length
        place += 8 + length + length % 2


def _missing_in_segment(file: BinaryIO, size: int) -> str | None:
    place = 0
    for _ in range(MOST_BOXES):
        file.seek(place)
        head = file.read(16)
        id_length = _vint_length(head[:1])
        size_length = _vint_length(head[id_length : id_length + 1])
        start = id_length + size_length
        if not id_length or not size_length or len(head) < start:
            return None
        unknown = (1 << 7 * size_length) - 1  # all ones
        length = int.from_bytes(head[id_length:start], "big") & unknown
        if length == unknown:
            if head[:4] not in (SEGMENT, CLUSTER):
                return None
            length = 0  # a live recording: go through what is inside
        elif place + start + length > size:
            return f"its content ends at byte {place + start + length:,} and the file at {size:,}"
        elif head[:4] == SEGMENT:
            return None
        place += start + length
    return None


def _vint_length(first: bytes) -> int:
    """Bytes of an EBML variable-length number, from its first byte; 0 if there is none."""
    return 9 - first[0].bit_length() if first and first[0] else 0


def _missing_in_ogg(file: BinaryIO, size: int) -> str | None:
    file.seek(max(0, size - OGG_TAIL))
    tail = file.read()
    place = tail.rfind(b"OggS")
    if place < 0:
        return "its last Ogg page is incomplete"
    page = tail[place:]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return "its last Ogg page is incomplete"
    if len(page) < 27 + page[26] + sum(page[27 : 27 + page[26]]):
        return "its last Ogg page is incomplete"
    if not page[5] & 4:
        return "its last Ogg page lacks the end-of-stream mark, so the recording was stopped or cut"
    return None


def _begins_as_ts(file: BinaryIO) -> bool:
    file.seek(0)
    return set(file.read(4 * TS_PACKET)[::TS_PACKET]) == {0x47}


def _missing_in_mp3(file: BinaryIO, size: int) -> str | None:
    start = _after_id3(file)
    file.seek(start)
    frame = file.read(4 + 32 + 4 + 12)
    if not _mp3_frame_length(frame):
        return None
    mpeg1, mono = frame[1] >> 3 & 3 == 3, frame[3] >> 6 == 3
    side = (17 if mono else 32) if mpeg1 else (9 if mono else 17)
    header = frame[4 + side :]
    if header[:4] in (b"Xing", b"Info") and header[7:8] and header[7] & 3 == 3:
        length = int.from_bytes(header[12:16], "big")
        if start + length > size:
            return f"its header states {length:,} bytes of sound and {size - start:,} are there"
    file.seek(max(start, size - MP3_TAIL))
    return _missing_in_last_mp3_frame(file.read())


def _missing_in_last_mp3_frame(tail: bytes) -> str | None:
    """Follow the frames from the first three in a row up to the end, which may also be a tag."""
    for place in range(len(tail)):
        following = place
        for _ in range(3):
            length = _mp3_frame_length(tail[following : following + 4])
            following += length or len(tail)
        if following < len(tail):
            break
    else:
        return None
    while length := _mp3_frame_length(tail[place : place + 4]):
        place += length
    return "its last frame is incomplete" if place > len(tail) else None


def _mp3_frame_length(head: bytes) -> int:
    """Bytes of the MPEG Layer III frame that begins with these four; 0 if none does."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0
    version, rate, kbits = head[1] >> 3 & 3, head[2] >> 2 & 3, head[2] >> 4
    if version == 1 or rate == 3 or kbits in (0, 15):
        return 0
    bits = MP3_KBITS[version == 3][kbits] * 1000
    return (144 if version == 3 else 72) * bits // MP3_RATES[version][rate] + (head[2] >> 1 & 1)


def _after_id3(file: BinaryIO) -> int:
    file.seek(0)
    head = file.read(10)
    if head[:3] != b"ID3" or len(head) < 10:
        return 0
    length = 0
    for byte in head[6:10]:
        length = length << 7 | byte & 0x7F
    return 10 + length + (10 if head[5] & 0x10 else 0)


def _ascii(name: bytes) -> str:
    return name.decode("ascii", "replace").strip()


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
