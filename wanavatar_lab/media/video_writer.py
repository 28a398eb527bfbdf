"""Write a video that every browser plays: H.264 in yuv420p and AAC in sync, in an MP4 with its index in front.

What takes hours to make is written to a partial file first, a fragmented MP4 that can be played wherever its writing
ends, and then copied into the whole one.
"""

import logging
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
from av.codec.context import Flags
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from wanavatar_lab.errors import MediaError, check_cancelled
from wanavatar_lab.media.audio import Audio
from wanavatar_lab.media.audio_writer import SoundTrack, say_clipped
from wanavatar_lab.media.container import threads, writing
from wanavatar_lab.media.probe import MediaInfo, probe
from wanavatar_lab.media.timing import frame_rate

# index in front; track times in 1/90,000 s, in which the frames of all usual rates are whole numbers
MP4 = {"movflags": "+faststart", "movie_timescale": "90000"}
# a fragment is to last a microsecond, so each is one frame, with its own index, and is written at once. The head comes
# with the first fragment and not before, since only then it can state AAC's run-in
FRAGMENTED_MP4 = {"movflags": "+delay_moov+default_base_moof", "frag_duration": "1", "flush_packets": "1"}
# no B-frames: they start a track late and rely on an edit list, which some players ignore, against the sound
H264 = {"preset": "fast", "crf": "18", "bf": "0"}
SECONDS_BETWEEN_KEYFRAMES = 2
SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP

_log = logging.getLogger(__name__)


class VideoWriter:
    """A context manager that writes an MP4 frame by frame; the file appears whole at the end or not at all.

    With `partial`, what was written before an error stays there, with its sound; `flush` even saves it from the
    end of the process.

    Memory does not grow with the number of frames. Picture and sound begin together and end together: where the
    sound is longer, the last frame is held (up to a whole frame); where it is shorter, silence follows.

    yuv420p stores colour for pairs of pixels. A picture whose width or height is odd is made even by repeating its
    last column or row, so that no pixel is lost; MP4 has no way to hide that pixel which all players follow. Colours
    are BT.709 in limited range and are tagged so.

    Args:
        path: ends in .mp4.
        fps: frames per second; frame times are constant.
        audio: the sound, if any; see `audio_writer.SoundTrack` for its rate and channels in the file.
        metadata: written as one JSON object into the file's comment.
        partial: a file in the same folder, which is written first and removed when `path` appears; see `keep_partial`.

    Raises:
        MediaError: (also from `write`) another suffix, an impossible rate, no frame, or a frame that does not fit.
        DiskFull: there is no room.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        fps: float | Fraction,
        audio: Audio | None = None,
        metadata: Mapping[str, str] | None = None,
        partial: Path | None = None,
    ) -> None:
        self.path, self.partial = Path(path), partial
        if self.path.suffix.lower() != ".mp4":
            raise MediaError(f"{path} does not end in .mp4. Videos are written as MP4; choose such a name.")
        self.fps = frame_rate(fps)
        self.frames = 0
        self._audio, self._metadata = audio, metadata
        self._shape: tuple[int, ...] | None = None
        self._encoder: VideoCodecContext | None = None
        self._reformatter = VideoReformatter()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            options = MP4 if self.partial is None else FRAGMENTED_MP4
            self._container = stack.enter_context(writing(self.path, options, self._metadata, self.partial))
            stack.push(self._finish)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        handled = self._stack.__exit__(*error)
        if self.partial is not None and error[0] is None:
            _copy(self.partial, self.path, self._metadata)
            self.partial.unlink()
        return handled

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Add one frame, uint8 `[H, W, 3]` in RGB; all frames have the size of the first."""
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or not frame.size:
            raise MediaError(f"A video frame is {frame.dtype} {list(frame.shape)}; it must be uint8 [H, W, 3].")
        if self._shape is None:
            self._begin(frame.shape)
        elif frame.shape != self._shape:
            raise MediaError(
                f"Frame {self.frames} of {self.path.name} is {frame.shape[1]}×{frame.shape[0]} and the first one is "
                f"{self._shape[1]}×{self._shape[0]}; all must have the same size."
            )
        odd = [(0, frame.shape[0] % 2), (0, frame.shape[1] % 2), (0, 0)]
        even = np.ascontiguousarray(np.pad(frame, odd, mode="edge") if odd[0][1] or odd[1][1] else frame)
        self._last = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(even, format="rgb24"),
            format="yuv420p",
            interpolation=SCALING,
            src_color_range=ColorRange.JPEG,
            dst_color_range=ColorRange.MPEG,
            dst_colorspace=Colorspace.ITU709,
            threads=1,
        )
        self._encode()

    def flush(self) -> None:
        """Write out what the encoder holds back, so that `partial` has all frames; the next one is a key frame."""
        if self._encoder is not None:
            self._mux(None)
            self._encoder = None

    def _begin(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        stream = self._container.add_stream("libx264", rate=self.fps)
        assert isinstance(stream, VideoStream)
        self._stream, self._encoder = stream, self._configured(stream.codec_context)
        self._sound = SoundTrack(self._container, self._audio) if self._audio else None
        if self._audio and self._audio.channels <= 2:  # more are mixed without clipping
            say_clipped(self.path, self._audio)

    def _configured(self, context: VideoCodecContext) -> VideoCodecContext:
        assert self._shape is not None
        height, width = self._shape[:2]
        context.width, context.height, context.pix_fmt = width + width % 2, height + height % 2, "yuv420p"
        context.options = {**H264, "g": str(max(1, round(self.fps * SECONDS_BETWEEN_KEYFRAMES)))}
        context.thread_count = threads()
        context.framerate, context.time_base = self.fps, 1 / self.fps
        context.flags |= Flags.global_header
        context.color_range = ColorRange.MPEG
        context.colorspace = Colorspace.ITU709
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709
        return context

    def _mux(self, frame: av.VideoFrame | None) -> None:
        assert self._encoder is not None
        for packet in self._encoder.encode(frame):
            packet.stream = self._stream
            self._container.mux(packet)

    def _encode(self) -> None:
        if self._encoder is None:
            # x264 takes no frame after a flush. Another encoder with the same settings writes the same parameter sets
            self._encoder = self._configured(VideoCodecContext.create("libx264", "w"))
        self._last.pts = self.frames
        self._last.time_base = 1 / self.fps
        self._mux(self._last)
        self.frames += 1
        if self._sound:
            self._sound.advance(self.frames / self.fps)

    def _finish(self, kind: Any, error: Any, trace: Any) -> None:
        if self._shape is None and kind is None:
            raise MediaError(f"No frame was written to {self.path}. A video needs at least one.")
        if self._shape is None or (kind is not None and self.partial is None):
            return
        try:
            # where frames and samples do not divide, the sound of so many frames ends within a sample behind the last
            while kind is None and self._sound and self._sound.left(self.frames / self.fps) >= 1:
                check_cancelled()
                self._encode()
            self.flush()
            if self._sound:
                self._sound.finish(self.frames / self.fps)
        except (av.FFmpegError, MemoryError):
            # what has ended the writing may also keep it from being completed, and is what is reported
            if kind is None:
                raise


class TalkingClipWriter(VideoWriter):
    """A `VideoWriter` that aligns the picture with the sound; both end together.

    Frame 0 of what is written belongs to audio time `start_frame / fps`; before it, it is held. The clip lasts as long
    as the audio, rounded up to a whole frame: the last frame is held, or frames that come after are left out, and
    silence fills the rest of the last frame. So nothing of the voice is cut.

    Args:
        path, fps, metadata, partial: as for `VideoWriter`.
        audio: the voice.
        start_frame: the audio frame, at `fps`, that frame 0 was made for; 0 or more.

    Raises:
        MediaError: `start_frame` is below 0, or what `VideoWriter` refuses.
        DiskFull: there is no room.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        fps: float | Fraction,
        audio: Audio,
        start_frame: int,
        metadata: Mapping[str, str] | None = None,
        partial: Path | None = None,
    ) -> None:
        if start_frame < 0:
            raise MediaError(f"start_frame is {start_frame}; it must be 0 or more.")
        super().__init__(path, fps=fps, audio=audio, metadata=metadata, partial=partial)
        self._start_frame = start_frame
        self._wanted = -(-len(audio.samples) * self.fps // audio.rate)

    @property
    def is_full(self) -> bool:
        """Whether there is a frame for all of the audio."""
        return self.frames >= self._wanted

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Add one frame, uint8 `[H, W, 3]` in RGB, unless the clip is full; all have the size of the first."""
        for _ in range(self._start_frame + 1 if self.frames == 0 else 1):
            if not self.is_full:
                super().write(frame)


class BackgroundWriter:
    """Writes the segments of a clip by a thread of its own, while the next segment is made.

    A context manager around a `VideoWriter`. One segment at a time is written, and the next one waits for it, so that
    memory does not grow with their number, and the file is the same as without the thread. At the end, and where an
    error or a cancellation ends the clip, the segment at hand is written first.

    Args:
        writer: not yet entered.

    Raises:
        MediaError: what `writer` refuses, at `check`, at the next `write` or at the end.
        DiskFull: there is no room, likewise.
    """

    def __init__(self, writer: VideoWriter) -> None:
        self._writer = writer
        self._segment: Future[None] | None = None  # the one at hand

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._writer)
            self._thread = stack.enter_context(ThreadPoolExecutor(1, "video-writer"))
            stack.push(self._finish)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    @property
    def frames(self) -> int:
        """How many frames the clip has; complete at the end."""
        return self._writer.frames

    def write(self, frames: Iterable[NDArray[np.uint8]]) -> None:
        """Write a segment's frames, each as `VideoWriter.write` takes one; returns once the segment before is written.

        Args:
            frames: taken one by one by the thread, so that what makes them, such as a conversion, is done there too.
        """
        self._wait()
        self._segment = self._thread.submit(self._write, frames)

    def check(self) -> None:
        """Raise what the segment at hand has failed with, if it has; does not wait."""
        if self._segment is not None and self._segment.done():
            self._wait()

    def _write(self, frames: Iterable[NDArray[np.uint8]]) -> None:
        for frame in frames:
            self._writer.write(frame)
        self._writer.flush()

    def _wait(self) -> None:
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.result()

    def _finish(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            self._wait()
        except Exception as failure:
            if kind is None:
                raise
            # the clip ends with its first error; this one may be why its last segment is missing
            _log.warning("The last segment of %s cannot be written: %s", self._writer.path.name, failure)


def write_talking_clip(
    path: Path | str,
    frames: Iterable[NDArray[np.uint8]],
    *,
    fps: float | Fraction,
    audio: Audio,
    start_frame: int,
    metadata: Mapping[str, str] | None = None,
) -> MediaInfo:
    """Write frames, which are taken one by one and not kept, with a `TalkingClipWriter`, which see."""
    with TalkingClipWriter(path, fps=fps, audio=audio, start_frame=start_frame, metadata=metadata) as writer:
        for frame in frames:
            writer.write(frame)
            if writer.is_full:
                break
    return probe(path)


def keep_partial(partial: Path, path: Path) -> Fraction:
    """Give a `VideoWriter`'s partial file, of a process that has ended, the name `path`; needs no room on the disk.

    Returns:
        Seconds of it that can be played; 0 where it has no whole frame and was removed.
    """
    with open(partial, "r+b") as file:
        size, place, whole = os.fstat(file.fileno()).st_size, 0, 0
        # boxes of four bytes for the size and four for the name: the head, and for each fragment a moof and an mdat
        while place + 8 <= size:
            file.seek(place)
            head = file.read(8)
            place += max(8, int.from_bytes(head[:4], "big"))
            if head[4:] == b"mdat" and place <= size:
                whole = place
        file.truncate(whole)
    if not whole:
        partial.unlink()
        return Fraction(0)
    partial.rename(path)
    with av.open(f"file:{path.absolute()}") as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        ends = [((packet.pts or 0) + (packet.duration or 0)) * packet.time_base for packet in packets]
    return max(ends, default=Fraction(0))


def _copy(partial: Path, path: Path, metadata: Mapping[str, str] | None) -> None:
    """Copy a partial file's streams, without encoding them anew, into an MP4 with its index in front."""
    with av.open(f"file:{partial.absolute()}") as source, writing(path, MP4, metadata) as target:
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.size:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
