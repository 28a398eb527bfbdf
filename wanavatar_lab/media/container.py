"""Open media files through PyAV: to read what can be decoded of them, and to write them whole or not at all.

A file that was cut or damaged is read as far as a player plays it: a packet that is incomplete or that the decoder
refuses is skipped. `Source` compares the length that the file declares with what was read, and `reading` logs a loss
with both lengths. What cannot be noticed: a recording without a declared length (live WebM, MPEG-TS, Ogg, MP3 without
Xing header, raw streams) that was cut exactly between two packets is a shorter recording of its kind.

FFmpeg's errors become `MediaError` in words that a user can act on.
"""

import contextlib
import io
import itertools
import logging
import mmap
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Stream

from wanavatar_lab.errors import MediaError
from wanavatar_lab.files import OUT_OF_ROOM, whole_file
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
# How much earlier than declared a whole file may end, in seconds, by container: sample-exact formats by rounding, the
# others by the duration that a muxer counts for the last packet. Only these declare a length in their header; for the
# others FFmpeg guesses one from the bit rate, which says nothing.
DECLARED_LENGTH_SLACK = {
    "flac": Fraction(1, 1000),
    "wav": Fraction(1, 1000),
    "aiff": Fraction(1, 1000),
    "w64": Fraction(1, 1000),
    "au": Fraction(1, 1000),
    "mov,mp4,m4a,3gp,3g2,mj2": Fraction(1, 10),
    "matroska,webm": Fraction(1, 10),
    "ogg": Fraction(1, 10),
    "avi": Fraction(1, 10),
    "mp3": Fraction(1, 20),
    "asf": Fraction(1, 2),
    "flv": Fraction(1, 2),
}
MAX_THREADS = 8
WAV_HEADER = re.compile(rb"RIFF....WAVEfmt ", re.DOTALL)
# streaming writers that cannot go back leave the size as all ones, or as nearly 2 GiB, which is never a real one
UNKNOWN_WAV_SIZE = 0x7FFF0000
# so that no file keeps the search for its sound busy: pieces of a stream, and chunks (LIST, bext, ...) in a piece
MAX_WAV_PIECES, MAX_WAV_CHUNKS = 10_000, 100
# seconds of bytes after a WAV's stated end that are still taken for a tag (ID3v1, APE) and not for sound
LONGEST_WAV_TAG = 0.1

_log = logging.getLogger(__name__)


def threads() -> int:
    """Threads for one decoder or encoder: more of them hold more frames in memory and gain little."""
    return min(MAX_THREADS, os.cpu_count() or 1)


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
        raise MediaError(f"{path!r} cannot be opened: {error}. Check its name and permissions.") from error
    if size == 0:
        raise MediaError(f"{path} is empty (0 bytes). Copy, download or export it again.")
    if size > settings.max_media_bytes:
        raise MediaError(
            f"{path} has {size:,} bytes and the limit is {settings.max_media_bytes:,}. "
            "Give a smaller file, or raise WANAVATAR_MAX_MEDIA_BYTES."
        )
    return path


@dataclass
class _Account:
    """What is known of one stream, in seconds of the file's own time: where it is declared to end, where the packets
    that were found and those that could be read end, how many were damaged, and where the first of these began."""

    declared: Fraction | None
    found: Fraction = Fraction(0)
    read: Fraction = Fraction(0)
    damaged: int = 0
    first_damage: Fraction = Fraction(0)


class Source:
    """An audio or video file that is open for reading, and an account of what cannot be read from it.

    Attributes:
        container: the file as PyAV opened it.
        path: of the file, for messages.
        streams: its audio and video streams, without cover art.
        zero: the file's own time, in seconds, that counts as 0: the earliest start of its streams. A start below 0 is
            an encoder's priming, which decoders drop, and does not move the zero.
        declared: where the header says that the last stream ends, in the file's own time in seconds; None for formats
            that declare no length.
    """

    def __init__(self, container: InputContainer, path: Path, declared: Fraction | None = None) -> None:
        self.container, self.path = container, path
        self.streams: list[Stream] = [
            stream
            for stream in container.streams
            if stream.type in ("audio", "video") and not stream.disposition & stream.disposition.attached_pic
        ]
        starts = [
            stream.start_time * stream.time_base
            for stream in self.streams
            if stream.start_time is not None and stream.time_base is not None
        ]
        self.zero = max(Fraction(0), min(starts, default=Fraction(0)))
        self._slack = DECLARED_LENGTH_SLACK.get(container.format.name)
        self._accounts = {stream.index: _Account(declared or self._declared_end(stream)) for stream in self.streams}
        self._watched = self._accounts
        ends = [account.declared for account in self._accounts.values() if account.declared is not None]
        if not ends and self._slack is not None and container.duration is not None:
            ends = [Fraction(max(0, container.start_time or 0) + container.duration, av.time_base)]
        self.declared = max(ends, default=None)
        self._at_end = False

    @property
    def seconds(self) -> Fraction:
        """Seconds from the zero to the end of the last packet that was read."""
        return max(Fraction(0), max(account.read for account in self._accounts.values()) - self.zero)

    @property
    def missing(self) -> str:
        """What could not be read so far of the streams that were decoded, in words; empty if nothing is known to be."""
        parts = []
        ends = [(account.declared, account.found, account.read) for account in self._watched.values()]
        if self.declared is not None and all(account.declared is None for account in self._accounts.values()):
            ends.append((self.declared, Fraction(0), self.seconds + self.zero))  # of the file as a whole
        losses = [
            (max(found, declared or 0) - read, read)
            for declared, found, read in ends
            if read < found or (declared is not None and read < declared - (self._slack or 0))
        ]
        if self._at_end and losses:
            lost, read = max(losses)
            read = max(Fraction(0), read - self.zero)
            parts.append(f"{float(read):.2f} s of {float(read + lost):.2f} s can be read")
        damaged = sum(account.damaged for account in self._watched.values())
        if damaged:
            first = min(account.first_damage for account in self._watched.values() if account.damaged)
            packets = "1 damaged packet was" if damaged == 1 else f"{damaged} damaged packets were"
            parts.append(f"{packets} skipped, the first near {float(first):.2f} s")
        return "; ".join(parts)

    def packets(self) -> Iterator["Packet[Stream]"]:
        """The whole packets of all streams, in the file's order; empty ones at the end flush the decoders."""
        self._at_end = False
        packets = self.container.demux(self.streams)
        while True:
            try:
                packet = next(packets, None)
            except MemoryError:
                raise
            except av.FFmpegError:
                # the demuxer has lost its way, as where the file's end is missing; what the decoders hold is still good
                packets = iter([_flush(stream) for stream in self.streams])
                continue
            if packet is None:
                break
            account = self._accounts[packet.stream.index]
            start, end = self._times(packet)
            account.found = max(account.found, end)
            if packet.size and self._was_cut(packet):
                self.note_damage(packet.stream, start)
                continue
            account.read = max(account.read, end)
            yield packet
        self._at_end = True

    def decoded(self, stream: Stream) -> Iterator[Any]:
        """The frames of one of the streams, as far as its packets can be decoded."""
        self._watched = {stream.index: self._accounts[stream.index]}
        for packet in self.packets():
            if packet.stream is stream:
                yield from self.decode(packet)

    def decode(self, packet: "Packet[Stream]") -> list[Any]:
        """The frames that a packet completes; none, and the damage is noted, if the decoder refuses it."""
        try:
            return packet.decode()
        except MemoryError:
            raise
        except av.FFmpegError:
            self.note_damage(packet.stream, self._times(packet)[0])
            return []

    def note_damage(self, stream: Stream, start: Fraction) -> None:
        """Count a packet of `stream` as lost that begins at `start`, in seconds of the file's own time."""
        account = self._accounts[stream.index]
        if not account.damaged:
            account.first_damage = max(Fraction(0), start - self.zero)
        account.damaged += 1
        account.read = min(account.read, start)

    def _declared_end(self, stream: Stream) -> Fraction | None:
        """Where a stream is declared to end, in the file's own time in seconds."""
        start, duration = max(0, stream.start_time or 0), stream.duration
        if self._slack is None or duration is None or stream.time_base is None:
            return None
        if self.container.format.name == "mp3" and not start:
            return None  # without the header that states how long the encoder's priming is, the length is a guess
        return (start + duration) * stream.time_base

    def _times(self, packet: "Packet[Stream]") -> tuple[Fraction, Fraction]:
        """Start and end of a packet in the file's own time in seconds; where it has none, the end of what was read."""
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None or not packet.time_base:
            return (self._accounts[packet.stream.index].read,) * 2
        return time * packet.time_base, (time + (packet.duration or 0)) * packet.time_base

    def _was_cut(self, packet: "Packet[Stream]") -> bool:
        codec: Any = packet.stream.codec_context
        if packet.is_corrupt:
            # PCM that was cut is shorter PCM; of another codec's packet the decoder would make noise or a smear
            return not codec.name.startswith("pcm_")
        if self.container.format.name == "mp3" and (packet.pos or 0) + packet.size >= self.container.size:
            # FFmpeg does not flag an MP3's last packet, and decodes it to noise; its parser returns whole frames only
            return not av.CodecContext.create("mp3", "r").parse(bytes(packet))
        return False


def _flush(stream: Stream) -> "Packet[Stream]":
    packet = Packet()
    packet.stream = stream
    return packet


@contextmanager
def reading(path: Path | str, settings: Settings) -> Iterator[Source]:
    """Open a video or audio file, and close it at the end; what could not be read is then logged.

    Raises:
        MediaError: the file cannot be read, or, from inside the `with` block, FFmpeg refuses it.
    """
    path = existing_file(path, settings)
    try:
        options = {
            "protocol_whitelist": "file",
            "format_whitelist": _accepted_formats(),
            "max_pixels": str(settings.max_video_pixels),
        }
        wav = _wav(path)
        file = wav.instead or f"file:{path.absolute()}"
        with av.open(file, options=options | wav.options, metadata_errors="replace") as container:
            source = Source(container, path, wav.declared)
            if not source.streams:
                raise MediaError(f"{path} has neither picture nor sound that can be read. Export it again.")
            try:
                yield source
            finally:
                if source.missing:
                    _log.warning("%s is cut short or damaged: %s.", path, source.missing)
    except av.FFmpegError as error:
        raise MediaError(
            f"{path} cannot be read as video or audio ({error.strerror}). "
            "It is damaged or of another kind; export it again, for example as MP4 or WAV."
        ) from error
    except (OSError, OverflowError, UnicodeError) as error:
        raise MediaError(f"{path} cannot be read: {error}. Check its permissions, or export it again.") from error


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
                # the file is thrown away, so only the first error is worth reporting
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


class _Wav(NamedTuple):
    """How to read a WAV file: a file to open instead, options for FFmpeg, and the seconds that its header declares."""

    instead: io.BytesIO | None = None
    options: dict[str, str] = {}
    declared: Fraction | None = None


def _wav(path: Path) -> _Wav:
    """Look at the sizes in a WAV file's header, which FFmpeg believes if the file is longer and corrects if it is not.

    A recorder that was interrupted leaves sizes of 0. A speech service that streams states the size of its first piece
    only, or sends a header with every piece; those inside would be heard as clicks, so that such a file is put together
    anew in memory.
    """
    with open(path, "rb") as file:
        if not WAV_HEADER.match(file.read(16)):
            return _Wav()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            whole = _wav_piece(data, 0, len(data))
            if whole.adds_up:
                return _Wav(declared=Fraction(whole.size, whole.bytes_per_second) if whole.bytes_per_second else None)
            heads = itertools.islice(WAV_HEADER.finditer(data), MAX_WAV_PIECES)
            starts = [head.start() for head in heads]
            if len(starts) == 1:
                return _Wav(options={"ignore_length": "1"})
            bounds = itertools.pairwise([*starts, len(data)])
            pieces = [_wav_piece(data, start, stop) for start, stop in bounds]
            # a piece in another format would be noise
            alike = itertools.takewhile(lambda piece: piece.format == whole.format, pieces)
            sound = b"".join(data[piece.start : piece.stop] for piece in alike)
            head = b"RIFF\xff\xff\xff\xffWAVE" + whole.format + b"data" + len(sound).to_bytes(4, "little")
            return _Wav(instead=io.BytesIO(head + sound))


class _WavPiece(NamedTuple):
    """A header's format chunk and the size of sound that it states; where the sound starts and stops in the file.

    `adds_up`, if what follows the stated sound is what may follow it. Sizes and places are in bytes.
    """

    format: bytes
    bytes_per_second: int
    size: int
    start: int
    stop: int
    adds_up: bool


def _wav_piece(data: mmap.mmap, head: int, stop: int) -> _WavPiece:
    """The piece whose header begins at byte `head`, and which ends at byte `stop` at the latest."""
    place, form, start, size = head + 12, b"", stop, 0
    for _ in range(MAX_WAV_CHUNKS):
        name, length = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        if stop - place < 8 or name == b"RIFF" or not (name.isascii() and name.decode().isprintable()):
            break
        if name == b"fmt ":
            form = data[place : place + 8 + length]
        elif name == b"data":
            start, size = place + 8, length
        place += 8 + length + length % 2
    bytes_per_second, block = (int.from_bytes(form[at : at + count], "little") for at, count in ((16, 4), (20, 2)))
    adds_up = size < UNKNOWN_WAV_SIZE and stop - place < max(8, LONGEST_WAV_TAG * bytes_per_second)
    end = min(start + size, stop) if adds_up else stop
    end -= (end - start) % max(1, block)  # so that the channels of the next piece are not exchanged
    return _WavPiece(form, bytes_per_second, size, start, end, adds_up)
