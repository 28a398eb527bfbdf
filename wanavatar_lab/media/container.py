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
import json
import logging
import mimetypes
import mmap
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import av
from av.audio.stream import AudioStream
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import Disposition, Stream

from wanavatar_lab.errors import MediaError, check_cancelled
from wanavatar_lab.files import OUT_OF_ROOM, disk_full, whole_file
from wanavatar_lab.settings import Settings

FORMATS = tomllib.loads(Path(__file__).with_name("formats.toml").read_text(encoding="utf-8"), parse_float=Fraction)
ROUNDING = Fraction(1, 200)  # seconds; lengths are given to the user in hundredths
MAX_THREADS = 8
PACKETS_PER_LOOK = 16  # for a cancellation; a look at the disk takes as long as a packet of sound
LONGEST_PRIMING = Fraction(3, 10)  # seconds: 2,112 samples of AAC at 8 kHz are 0.26 s
# of the outermost ones, those that a player needs
MP4_BOXES = {b"ftyp", b"moov", b"moof", b"mdat", b"free", b"skip", b"wide", b"uuid", b"sidx", b"styp", b"mfra", b"meta"}
PICTURE_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1", b"avif", b"avis"}
WAV_HEADER = re.compile(rb"RIFF....WAVEfmt ", re.DOTALL)
# format tags of plain samples, whose bytes a second are exact: PCM, float, A-law, µ-law, and those stated further on
WAV_SAMPLES = {1, 3, 6, 7, 0xFFFE}
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


class Source:
    """An audio or video file that is open for reading, and an account of what cannot be read from it.

    Attributes:
        container: the file as PyAV opened it.
        path: of the file, for messages.
        streams: its audio and video streams that FFmpeg can decode, without cover art.
        zero: the file's own time, in seconds, that counts as 0: the earliest start of its streams. A start of sound
            a little below 0 is an encoder's priming, which decoders drop, and does not move the zero.
        damaged: the start of every packet that was skipped, in seconds of the file's own time.
        decoders: of streams, by index, that are decoded by another decoder than FFmpeg's choice, with a `decode` like
            that of `CodecContext`.
        length: seconds from there to where the header says that the last stream ends; None if it declares no length.
    """

    def __init__(self, container: InputContainer, path: Path, length: Fraction | None) -> None:
        self.container, self.path, self.length = container, path, length
        self.streams: list[Stream] = [
            stream
            for stream in container.streams
            if stream.type in ("audio", "video")
            and stream.codec_context is not None
            and not stream.disposition & stream.disposition.attached_pic
        ]
        times = [(stream.start_time, stream.duration, stream.time_base or Fraction(0)) for stream in self.streams]
        starts = [
            max(Fraction(0), start * base)
            if stream.type == "audio" and start * base > -LONGEST_PRIMING
            else start * base
            for stream, (start, _, base) in zip(self.streams, times, strict=True)
            if start is not None
        ]
        self.zero = min(starts, default=Fraction(0))
        slack = FORMATS["declared_length_slack"].get(container.format.name)
        # an MP3's length is exact only with the header that also states the encoder's priming, which delays the start
        if length is None and slack is not None and (container.format.name != "mp3" or self.zero):
            ends = [(max(0, start or 0) + lasts) * base for start, lasts, base in times if lasts is not None]
            if not ends and container.duration is not None:
                ends = [Fraction(container.duration, av.time_base)]
                # Matroska's length counts from 0 and not from the start, which in live recordings may be a clock's time
                if "matroska" not in container.format.name or ends[0] < self.zero:
                    ends[0] += max(Fraction(0), self.zero)
            self.length = max(ends) - self.zero if ends else None
        self._slack = slack or Fraction(0)
        declared, size = _declared_bytes(path), path.stat().st_size
        self._cut = f"the file has {size:,} of {declared:,} bytes" if size < declared else ""
        # ends in the file's own time in seconds: of all packets, of those that could be read, and without the last one
        self._found = self._read = self._before = Fraction(0)
        self.damaged: list[Fraction] = []
        self.decoders: dict[int, Any] = {}
        self._at_end = False

    @property
    def sound(self) -> AudioStream | None:
        """The sound that players play: of several tracks the first that is marked as the default, else the first."""
        tracks = [stream for stream in self.streams if isinstance(stream, AudioStream)]
        return next((track for track in tracks if track.disposition & Disposition.default), next(iter(tracks), None))

    @property
    def seconds(self) -> Fraction:
        """Seconds from the zero to the end of what was read."""
        return max(Fraction(0), self._read - self.zero)

    @property
    def missing(self) -> str:
        """What could not be read so far, in words; empty if nothing is known to be missing."""
        parts = []
        length = self.length or Fraction(0)
        if self._at_end and (self._read < self._found - ROUNDING or self.seconds < length - self._slack):
            length = max(length, self._found - self.zero)
            parts.append(f"{float(self.seconds):.2f} s of {float(length):.2f} s can be read")
        if self.damaged:
            count, first = len(self.damaged), float(max(Fraction(0), self.damaged[0] - self.zero))
            parts.append(f"{count} damaged packet{'s' if count > 1 else ''} skipped, the first near {first:.2f} s")
        if self._cut:
            parts.append(self._cut)
        return "; ".join(parts)

    def packets(self) -> Iterator["Packet[Stream]"]:
        """The whole packets of all streams, in the file's order; empty ones at the end flush the decoders.

        Raises:
            Cancelled: the run that is executed was cancelled.
        """
        self._at_end = False
        try:
            for number, packet in enumerate(self.container.demux(self.streams)):
                if number % PACKETS_PER_LOOK == 0:
                    check_cancelled()
                start, end = self.times(packet)
                self._found, self._before = max(self._found, end), self._read
                if packet.size and _was_cut(packet, self.container):
                    self.damaged.append(start)
                    continue
                self._read = max(self._read, end)
                yield packet
        except (av.InvalidDataError, MemoryError):  # a size that is damaged asks for gigabytes
            self.damaged.append(self._read)  # the demuxer cannot find its way any further
        self._at_end = True

    def decoded(self, stream: Stream) -> Iterator[Any]:
        """The frames of one of the streams, as far as its packets can be decoded."""
        for packet in self.packets():
            if packet.stream is stream:
                yield from self.decode(packet)

    def decode(self, packet: "Packet[Stream]") -> list[Any]:
        """The frames that a packet of `packets` completes; none if the decoder refuses it, which is noted."""
        try:
            decoder = self.decoders.get(packet.stream.index)
            return packet.decode() if decoder is None else decoder.decode(packet if packet.size else None)
        except MemoryError:
            raise
        except av.FFmpegError:
            self._read = self._before
            self.damaged.append(self.times(packet)[0])
            return []

    def times(self, packet: "Packet[Stream]") -> tuple[Fraction, Fraction]:
        """Start and end of a packet in the file's own time in seconds; where it has none, the end of what was read."""
        time = packet.pts if packet.pts is not None else packet.dts
        if time is None or not packet.time_base:
            return self._read, self._read
        return time * packet.time_base, (time + (packet.duration or 0)) * packet.time_base


def _was_cut(packet: "Packet[Stream]", container: InputContainer) -> bool:
    codec: Any = packet.stream.codec_context
    if packet.is_corrupt:
        # PCM that was cut is shorter PCM; of another codec's packet the decoder would make noise or a smear
        return not codec.name.startswith("pcm_")
    if container.format.name == "mp3" and (packet.pos or 0) + packet.size >= container.size:
        # FFmpeg does not flag an MP3's last packet, and decodes it to noise; its parser returns whole frames only
        return not av.CodecContext.create("mp3", "r").parse(bytes(packet))
    return False


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
        instead, more, declared = _wav(path)
        file = instead or _before_a_picture(path) or f"file:{path.absolute()}"
        with av.open(file, "r", options=options | more, metadata_errors="replace") as container:
            source = Source(container, path, declared)
            if not source.streams:
                raise MediaError(f"{path} has neither picture nor sound that can be read. Export it again.")
            try:
                yield source
            finally:
                if source.missing:
                    _log.warning("%s is cut short or damaged: %s.", path, source.missing)
    except av.FFmpegError as error:
        is_named_picture = (mimetypes.guess_type(path.name)[0] or "").startswith("image/")
        kind, format = ("a picture", "PNG or JPEG") if is_named_picture else ("video or audio", "MP4 or WAV")
        raise MediaError(
            f"{path} cannot be read as {kind} ({error.strerror}). "
            f"It is damaged or of another kind; export it again, for example as {format}."
        ) from error
    except (OSError, OverflowError, UnicodeError) as error:
        raise MediaError(f"{path} cannot be read: {error}. Check its permissions, or export it again.") from error


@contextmanager
def writing(
    path: Path | str,
    options: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
    partial: Path | None = None,
) -> Iterator[OutputContainer]:
    """Open a file for writing; its container is chosen by the suffix. It appears whole at the end or not at all.

    Args:
        options: of FFmpeg's muxer.
        metadata: written as one JSON object into the container's comment.
        partial: written instead of `path`, and left as it is where the `with` block or a write fails.

    Raises:
        MediaError: the folder is missing or cannot be written to, or FFmpeg refuses what is written.
        DiskFull: there is no room.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise MediaError(f"The folder {path.parent} does not exist. Make it, or choose another one for {path.name}.")
    try:
        with whole_file(path) if partial is None else nullcontext(partial) as temporary:
            container = av.open(f"file:{temporary.absolute()}", "w", options=dict(options or {}))
            if metadata:
                container.metadata["comment"] = json.dumps(dict(metadata), ensure_ascii=False)
            try:
                yield container
                container.close()
            except BaseException:
                # the file is thrown away, or is playable without its end: only the first error is worth reporting
                with contextlib.suppress(av.FFmpegError):
                    container.close()
                raise
    except av.FFmpegError as error:
        if error.errno in OUT_OF_ROOM:
            raise disk_full(path) from error
        raise MediaError(
            f"{path} cannot be written: {error.strerror}. Check the folder and its permissions."
        ) from error


@cache
def _accepted_formats() -> str:
    names = {name for name in av.formats_available if av.format.ContainerFormat(name).is_input}
    return ",".join(sorted(name for name in names - set(FORMATS["refused"]) if not name.endswith("_pipe")))


def _declared_bytes(path: Path) -> int:
    """Where the outermost parts of an MP4, Matroska or AVI file declare to end, in bytes; 0 for other files, and for
    live recordings, which do not state it.

    Lengths in seconds are rounded, and tell nothing of a track whose description is cut off.
    """
    with open(path, "rb") as file:
        head = file.read(64)
        if head.startswith(
            b"\x1a\x45\xdf\xa3"
        ):  # EBML, then the segment, whose length has as many bytes as its zeros say
            place = 4
            for _ in range(2):
                width = 9 - head[place].bit_length() if len(head) > place + 12 else 9
                if width > 8:
                    return 0
                size = int.from_bytes(head[place : place + width], "big") - (1 << 7 * width)
                place += width + size
                if not head.startswith(b"\x18\x53\x80\x67", place):
                    break
                place += 4
            return 0 if size == (1 << 7 * width) - 1 else place
        end = 0
        while True:
            file.seek(end)
            head = file.read(16)
            if head[:4] == b"RIFF" and head[8:11] == b"AVI":
                size = 8 + int.from_bytes(head[4:8], "little")
            elif head[4:8] in MP4_BOXES:
                size = int.from_bytes(head[:4], "big")
                size = int.from_bytes(head[8:16], "big") if size == 1 else size
            else:
                return end
            if size < 8:  # to the end of the file, whatever that is, or never filled in
                return 0
            end += size + (size & 1 if head[:4] == b"RIFF" else 0)


def _before_a_picture(path: Path) -> io.BytesIO | None:
    """Of an MP4 behind which a HEIC or AVIF was joined, the MP4 alone: FFmpeg would add a thousand streams, or hang."""
    with open(path, "rb") as file:
        place, brands = 0, 0
        while True:
            file.seek(place)
            head = file.read(16)
            size = int.from_bytes(head[:4], "big")
            size = int.from_bytes(head[8:16], "big") if size == 1 else size
            if head[4:8] not in MP4_BOXES or size < 8:
                return None
            brands += head[4:8] == b"ftyp"
            if brands > 1 and head[8:12] in PICTURE_BRANDS:
                file.seek(0)
                return io.BytesIO(file.read(place))
            place += size


def _wav(path: Path) -> tuple[io.BytesIO | None, dict[str, str], Fraction | None]:
    """For a WAV file: a file to open instead, options for FFmpeg, and the seconds of sound that its header declares.

    FFmpeg believes a header's sizes. A recorder that was interrupted leaves them 0. A speech service that streams
    states the size of its first piece only, or sends a header with every piece; those inside would be heard as clicks,
    so that such a file is put together anew in memory.
    """
    with open(path, "rb") as file:
        if not WAV_HEADER.match(file.read(16)):
            return None, {}, None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            whole = _wav_piece(data, 0, len(data))
            if int.from_bytes(whole.format[8:10], "little") not in WAV_SAMPLES:
                return None, {}, None
            if whole.declared is not None:
                return None, {}, whole.declared
            heads = itertools.islice(WAV_HEADER.finditer(data), MAX_WAV_PIECES)
            bounds = itertools.pairwise([*(head.start() for head in heads), len(data)])
            pieces = [_wav_piece(data, start, stop) for start, stop in bounds]
            if len(pieces) == 1:
                return None, {"ignore_length": "1"}, None
            # a piece in another format would be noise
            alike = itertools.takewhile(lambda piece: piece.format == whole.format, pieces)
            sound = b"".join(data[piece.start : piece.stop] for piece in alike)
            head = b"RIFF\xff\xff\xff\xffWAVE" + whole.format + b"data" + len(sound).to_bytes(4, "little")
            return io.BytesIO(head + sound), {}, None


class _WavPiece(NamedTuple):
    """A header's format chunk, the bytes where its sound starts and stops, and the seconds that it declares.

    `declared` is None if the sizes are not those of the file, and the sound then stops where the piece does.
    """

    format: bytes
    start: int
    stop: int
    declared: Fraction | None


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
    rate, stated, block = (int.from_bytes(form[at : at + count], "little") for at, count in ((12, 4), (16, 4), (20, 2)))
    # some writers leave the bytes a second wrong, which nobody needs
    per_second, block = max(1, rate * block or stated), max(1, block)
    if size < UNKNOWN_WAV_SIZE and stop - place < max(8, LONGEST_WAV_TAG * per_second):
        return _WavPiece(form, start, min(start + size, stop), Fraction(size, per_second))
    # whole blocks of all channels, so that those of the next piece are not exchanged
    return _WavPiece(form, start, stop - (stop - start) % block, None)
