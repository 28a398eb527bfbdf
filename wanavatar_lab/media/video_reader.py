"""Read the frames of a video as far as they decode, upright, in square pixels, as RGB.

Any file that FFmpeg knows is read, and animated WebP, of which FFmpeg reads none.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.codec.context import CodecContext
from av.packet import Packet
from av.stream import Stream
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from wanavatar_lab.errors import MediaError
from wanavatar_lab.media.container import Source, reading, threads
from wanavatar_lab.media.hdr import ToBT709, colours_to_map, hdr_of
from wanavatar_lab.media.pictures import animation
from wanavatar_lab.media.timing import exact_seconds, frame_rate
from wanavatar_lab.settings import Settings, read_settings

Frame = NDArray[np.uint8]
Timed = tuple[Fraction, VideoFrame]  # seconds from the file's zero, and the frame as it was decoded
UNSPECIFIED = 2  # of AVColorSpace
USUAL_RATE = Fraction(25)  # for the few formats that state neither times nor a rate
# FFmpeg's own decoders leave out the second picture that holds the transparency of a WebM
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
# seconds; seeking goes to a key frame before this, so that the frame nearest to the time asked for is not passed
SEEK_MARGIN = Fraction(1, 2)
LITTLE_FASTER = Fraction(11, 10)  # times a rate: clocks differ by less, and frames follow each other at the same rate


def read_frames(
    path: Path | str, *, fps: float | Fraction | None = None, start: float = 0.0, limit: int | None = None
) -> Iterator[Frame]:
    """The frames of a video, uint8 `[H, W, 3]` in RGB, one by one; all have the size that `probe` returns.

    Frames that are missing or damaged are skipped, and logged with the lengths when the last frame has been taken.

    Rotation and non-square pixels are applied, transparency is laid over white, and frames whose size changes midway
    are scaled to the first one's. Colours follow the file's tags; without any, frames above 576 lines or 1024
    columns count as BT.709 and others as BT.601, as players do. HDR and wide gamuts are mapped to BT.709 (`media.hdr`).

    Args:
        fps: frames per second of the result: frame k is the source frame whose time is nearest to `start + k / fps`,
            so that times never drift; one that stands for longer than the others is shown until the next one begins.
            A clock that trembles costs no frames: where some are repeated, the next ones may be up to a step late,
            unless the result has fewer frames per second than the file.
            If None, every source frame once, as the file has them.
        start: seconds from the file's zero, which `read_audio` shares; begins with the frame nearest to it, likewise.
        limit: frames at most.

    Raises:
        MediaError: at the call: no such file, no frame that can be decoded, nothing at `start`, larger than the
            settings allow (`max_media_bytes`, `max_video_pixels`, `max_video_seconds`). While frames are taken:
            longer than `max_video_seconds`.
    """
    begin = exact_seconds("The video start", start)
    wanted = None if fps is None else frame_rate(fps)
    if limit is not None and limit < 1:
        raise MediaError(f"The limit is {limit} frames; it must be 1 or more.")
    frames = itertools.islice(_frames(path, wanted, begin, read_settings()), limit)
    first = next(frames, None)
    if first is None:
        raise MediaError(f"{path} has no frame at {float(begin):g} s. Give another file or an earlier start.")
    return itertools.chain([first], frames)


def read_frame(path: Path | str, at_seconds: float) -> Frame:
    """The frame with which `read_frames` begins at `at_seconds`, uint8 `[H, W, 3]` in RGB.

    Raises:
        MediaError: as `read_frames`; also if the video ends before `at_seconds`.
    """
    return next(read_frames(path, start=at_seconds, limit=1))


def video_stream(source: Source, settings: Settings) -> VideoStream:
    """The picture of a file, its size checked.

    Raises:
        MediaError: there is none, or its frames are larger than `settings.max_video_pixels`.
    """
    for stream in source.streams:
        if isinstance(stream, VideoStream):
            width, height = stream.width, stream.height
            if width < 1 or height < 1:
                raise MediaError(
                    f"{source.path} has frames of {width}×{height}: its header is damaged. Export it again."
                )
            shown = width * height * max(Fraction(1), stream.sample_aspect_ratio or Fraction(1))
            if shown > settings.max_video_pixels:
                raise MediaError(
                    f"{source.path} has frames of {width}×{height} and the limit is {settings.max_video_pixels:,} "
                    "pixels. Scale it down, or raise WANAVATAR_MAX_VIDEO_PIXELS."
                )
            return stream
    raise MediaError(f"{source.path} has no picture that moves. Give a video file; a still is read as a picture.")


def check_length(path: Path, seconds: Fraction | None, settings: Settings) -> None:
    """Refuse a video that is longer than `settings.max_video_seconds`; None stands for a length that is not known."""
    if seconds is not None and seconds > settings.max_video_seconds:
        raise MediaError(
            f"{path} is longer than {settings.max_video_seconds:g} s. Cut it, or raise WANAVATAR_MAX_VIDEO_SECONDS."
        )


def shown_size(stream: VideoStream) -> tuple[int, int]:
    """Width and height before rotation, in square pixels."""
    return max(1, round(stream.width * (stream.sample_aspect_ratio or 1))), stream.height


def usual_rate(stream: VideoStream) -> Fraction:
    """Frames per second of a stream whose frames state no times."""
    return stream.average_rate or stream.guessed_rate or USUAL_RATE


def _fastest_rate(stream: VideoStream) -> Fraction:
    """Frames per second of a stream where they follow each other fastest, as far as its header says."""
    return max(usual_rate(stream), stream.guessed_rate or Fraction(0))


def orientation(frame: VideoFrame) -> tuple[bool, int]:
    """How a frame is shown upright: whether it is mirrored from left to right first, and then how often it is turned
    by 90° counter-clockwise.
    """
    try:
        matrix: Any = frame.side_data["DISPLAYMATRIX"]  # type: ignore[typeddict-item]  # PyAV types one key alone
    except KeyError:
        return False, 0
    except ValueError:  # beside it is something of a kind that PyAV does not know, such as EXIF
        return False, round(frame.rotation / 90) % 4
    across, down, _, sideways, upwards = np.frombuffer(matrix, np.int32)[:5].tolist()
    # a selfie may be mirrored by its matrix, for which the angle that FFmpeg gives is wrong
    mirrored = across * upwards < down * sideways
    turn = math.atan2(-down, -across) if mirrored else math.atan2(down, across)
    return mirrored, round(-turn / (math.pi / 2)) % 4


def _frames(path: Path | str, fps: Fraction | None, start: Fraction, settings: Settings) -> Iterator[Frame]:
    if _is_webp(path):  # of which FFmpeg takes none that moves
        pictures = _timed_pictures(path, settings)
        if (head := next(pictures, None)) is None:
            raise MediaError(f"{path} has no picture that moves. Give a video file; a still is read as a picture.")
        to_array = _Converter((head[1].width, head[1].height))
        pictures = itertools.chain([head], pictures)
        shortest = _shown_for(head[1], Fraction(0))
        yield from map(to_array, _chosen(pictures, start, fps, shortest))
        return
    with reading(path, settings) as source:
        stream = video_stream(source, settings)
        check_length(source.path, source.length, settings)
        stream.codec_context.options = {"max_pixels": str(settings.max_video_pixels)}
        stream.codec_context.thread_count = threads()
        # FFmpeg's frame threads wait for each other for ever on some damaged streams
        stream.thread_type = "SLICE"
        upright = orientation
        if stream.metadata.get("alpha_mode") == "1" and stream.codec_context.name in ALPHA_DECODERS:
            source.decoders[stream.index] = decoder = _AlphaDecoder(stream.codec_context)
            upright = decoder.orientation
        to_array = _Converter(shown_size(stream), upright)
        # a raw stream, whose frames have no times, cannot be sought, and is lost where that was tried
        sought = start > SEEK_MARGIN and stream.start_time is not None
        frames = _sought(source, stream, start, settings) if sought else _timed(source, stream, settings)
        for frame in _chosen(frames, start, fps, 1 / _fastest_rate(stream)):
            yield to_array(frame)


class _AlphaDecoder:
    """Decodes a stream with its transparency.

    What the header says is only told to FFmpeg's own decoder, which decodes the first frame too.
    """

    def __init__(self, own: Any) -> None:
        decoder = CodecContext.create(ALPHA_DECODERS[own.name], "r")
        assert isinstance(decoder, VideoCodecContext)
        decoder.options, decoder.thread_count = own.options, threads()
        decoder.color_primaries, decoder.color_trc = own.color_primaries, own.color_trc
        self._own, self._decoder = own, decoder
        self._orientation: tuple[bool, int] | None = None

    def decode(self, packet: "Packet[Stream] | None") -> list[Any]:
        """The frames that a packet completes; None flushes the decoder."""
        if self._orientation is None:
            self._orientation = next(map(orientation, self._own.decode(packet)), None)
        return self._decoder.decode(packet)

    def orientation(self, frame: VideoFrame) -> tuple[bool, int]:
        """What `orientation` says of the frames that FFmpeg's own decoder makes."""
        return self._orientation or orientation(frame)


def _is_webp(path: Path | str) -> bool:
    with suppress(OSError), open(path, "rb") as file:
        head = file.read(12)
        return head[:4] + head[8:] == b"RIFFWEBP"
    return False


def _timed_pictures(path: Path | str, settings: Settings) -> Iterator[Timed]:
    """The frames of an animated picture, as `_timed` has those of a video."""
    time = 0
    for picture, duration in animation(path):
        frame = VideoFrame.from_ndarray(np.asarray(picture), format="rgba")
        frame.pts, frame.duration, frame.time_base = time, duration, Fraction(1, 1000)
        check_length(Path(path), Fraction(time, 1000), settings)
        yield Fraction(time, 1000), frame
        time += duration


def _timed(source: Source, stream: VideoStream, settings: Settings) -> Iterator[Timed]:
    """The frames in the order of showing."""
    step = 1 / usual_rate(stream)
    time = -step
    for frame in source.decoded(stream):
        known = frame.pts is not None and frame.time_base
        time = frame.pts * frame.time_base - source.zero if known else time + step
        check_length(source.path, time, settings)
        yield time, frame


def _sought(source: Source, stream: VideoStream, start: Fraction, settings: Settings) -> Iterator[Timed]:
    """The frames from shortly before `start`; from the file's beginning where its container cannot seek."""
    frames = _timed(source, stream, settings)
    try:
        source.container.seek(int((start - SEEK_MARGIN + source.zero) * av.time_base))
        first = next(frames, None)
    except (av.FFmpegError, MediaError):
        first = None
    if first is not None and first[0] <= start - SEEK_MARGIN / 2:
        return itertools.chain([first], frames)
    source.container.seek(0, any_frame=True)  # there may be no key frame so early
    return _timed(source, stream, settings)


def _chosen(frames: Iterator[Timed], start: Fraction, fps: Fraction | None, shortest: Fraction) -> Iterator[VideoFrame]:
    """The frames from `start` on, every one or at a constant rate.

    Args:
        shortest: seconds for which a frame is usually shown where they follow each other fastest.
    """
    return _from_start(frames, start, shortest) if fps is None else _at_rate(frames, start, fps, shortest)


def _from_start(frames: Iterator[Timed], start: Fraction, shortest: Fraction) -> Iterator[VideoFrame]:
    """Every frame from the one that `_at_rate` takes for `start` on; none if the video ends before it."""
    before: Timed | None = None
    step = Fraction(0)
    for time, frame in frames:
        if time >= start:
            if before is not None and start <= max((before[0] + time) / 2, time - shortest / 2):
                yield before[1]
            yield frame
            yield from (later for _, later in frames)
            return
        if before is not None:
            step = time - before[0]
            shortest = min(shortest, step)
        before = time, frame
    if before is not None and start <= before[0] + _shown_for(before[1], step):
        yield before[1]


def _at_rate(frames: Iterator[Timed], start: Fraction, fps: Fraction, shortest: Fraction) -> Iterator[VideoFrame]:
    """The frame nearest to each of the times `start + k / fps`, up to where the last frame stops being shown.

    One that stands for longer than a step of the result and than the `shortest` is not cut short. Where one was
    repeated, the next ones are not left out but shown late, by less than a step: else a clock that trembles about the
    middle of two steps would repeat every other frame and lose the rest. Not at a lower rate, where frames are left out
    in any case.
    """
    count = 0
    before: Timed | None = None
    passed = step = Fraction(0)
    repeated = False
    for read, (time, frame) in enumerate(frames):
        if before is not None:
            step = time - before[0]
            shortest, passed, first = min(shortest, step), passed + step, count
            # of two that are equally near, the earlier one
            while start + count / fps <= max((before[0] + time) / 2, time - max(shortest, 1 / fps) / 2):
                yield before[1]
                count += 1
            if count == first and (repeated := repeated and start + count / fps < before[0] + 1 / fps):
                yield before[1]
                count += 1
            as_fast = passed * LITTLE_FASTER > read / fps  # as the result, or slower
            repeated = as_fast and (repeated or count > first + 1)
        before = time, frame
    if before is not None:
        end = before[0] + _shown_for(before[1], step or 1 / fps)
        while start + count / fps < end:
            yield before[1]
            count += 1


def _shown_for(frame: VideoFrame, step: Fraction) -> Fraction:
    """Seconds that the last frame is shown: as stated, else as long as the one before."""
    stated = frame.duration * frame.time_base if frame.duration and frame.time_base else Fraction(0)
    return stated if stated > 0 else step


class _Converter:
    """Turns decoded frames into upright RGB arrays of one size.

    Args:
        size: width and height of what comes out, before it is turned.
        upright: how a frame is turned, as `orientation` says it.
    """

    def __init__(self, size: tuple[int, int], upright: Callable[[VideoFrame], tuple[bool, int]] = orientation) -> None:
        self._size, self._upright = size, upright
        self._reformatter = VideoReformatter()
        self._to_bt709: dict[tuple[str, int], ToBT709] = {}

    def __call__(self, frame: VideoFrame) -> Frame:
        transparent = any(component.is_alpha for component in frame.format.components)
        colours = colours_to_map(frame.color_trc, frame.color_primaries)
        array: NDArray[Any]
        if colours is None or transparent:
            array = self._reformatted(frame, "rgba" if transparent else "rgb24").to_ndarray()
        if colours is not None:
            if colours not in self._to_bt709:
                self._to_bt709[colours] = ToBT709(*self._size, *colours)
            mapped = self._to_bt709[colours](self._reformatted(frame, "rgb48le"))
            array = np.concatenate([mapped, array[..., 3:]], axis=2) if transparent else mapped
        if transparent:
            alpha = array[..., 3:].astype(np.uint16)
            array = ((array[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        mirrored, turns = self._upright(frame)
        return np.ascontiguousarray(np.rot90(array[:, ::-1] if mirrored else array, turns))

    def _reformatted(self, frame: VideoFrame, pixels: str) -> VideoFrame:
        # untagged pictures as players take them: large ones as BT.709, small ones as BT.601
        usual = Colorspace.ITU709 if frame.height > 576 or frame.width > 1024 else Colorspace.ITU601
        if frame.color_primaries == ColorPrimaries.BT2020 or hdr_of(frame):
            usual = Colorspace.BT2020
        return self._reformatter.reformat(
            frame,
            *self._size,
            format=pixels,
            interpolation=SCALING,
            src_colorspace=usual if frame.colorspace == UNSPECIFIED else frame.colorspace,
            dst_color_range=ColorRange.JPEG,
            threads=1,
        )
