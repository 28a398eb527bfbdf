"""Write a video that every browser plays: H.264 in yuv420p and AAC in sync, in an MP4 with its index in front."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from wanavatar_lab.errors import MediaError
from wanavatar_lab.media.audio import Audio
from wanavatar_lab.media.audio_writer import SoundTrack
from wanavatar_lab.media.container import threads, writing
from wanavatar_lab.media.probe import MediaInfo, probe
from wanavatar_lab.media.timing import frame_rate

# index in front; track times in 1/90,000 s, in which the frames of all usual rates are whole numbers
MP4 = {"movflags": "+faststart", "movie_timescale": "90000"}
# no B-frames: they start a track late and rely on an edit list, which some players ignore, against the sound
H264 = {"preset": "fast", "crf": "18", "bf": "0"}
SECONDS_BETWEEN_KEYFRAMES = 2
SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP


class VideoWriter:
    """A context manager that writes an MP4 frame by frame; the file appears whole at the end or not at all.

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
    ) -> None:
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise MediaError(f"{path} does not end in .mp4. Videos are written as MP4; choose such a name.")
        self.fps = frame_rate(fps)
        self.frames = 0
        self._audio, self._metadata = audio, metadata
        self._shape: tuple[int, ...] | None = None
        self._reformatter = VideoReformatter()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._container = stack.enter_context(writing(self.path, MP4, self._metadata))
            stack.push(self._finish)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

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

    def _begin(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        options = {**H264, "g": str(max(1, round(self.fps * SECONDS_BETWEEN_KEYFRAMES)))}
        stream = self._container.add_stream("libx264", rate=self.fps, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = shape[1] + shape[1] % 2, shape[0] + shape[0] % 2, "yuv420p"
        context = stream.codec_context
        context.thread_count = threads()
        context.time_base = 1 / self.fps
        context.color_range = ColorRange.MPEG
        context.colorspace = Colorspace.ITU709
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709
        self._stream = stream
        self._sound = SoundTrack(self._container, self._audio) if self._audio else None

    def _encode(self) -> None:
        self._last.pts = self.frames
        self._last.time_base = 1 / self.fps
        self._container.mux(self._stream.encode(self._last))
        self.frames += 1
        if self._sound:
            self._sound.advance(self.frames / self.fps)

    def _finish(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is not None:
            return
        if self._shape is None:
            raise MediaError(f"No frame was written to {self.path}. A video needs at least one.")
        while self._sound and self.frames < self._sound.seconds * self.fps:
            self._encode()
        self._container.mux(self._stream.encode(None))
        if self._sound:
            self._sound.finish(self.frames / self.fps)


def write_talking_clip(
    path: Path | str,
    frames: Iterable[NDArray[np.uint8]],
    *,
    fps: float | Fraction,
    audio: Audio,
    start_frame: int,
    metadata: Mapping[str, str] | None = None,
) -> MediaInfo:
    """Write an MP4 in which the picture is aligned with the sound and both end together.

    Frame 0 of `frames` belongs to audio time `start_frame / fps`; before it, it is held. The clip lasts as long as
    the audio, rounded up to a whole frame: the last frame is held, or the frames that come after are not taken, and
    silence fills the rest of the last frame. So nothing of the voice is cut.

    Args:
        path: ends in .mp4; appears whole or not at all.
        frames: uint8 `[H, W, 3]`, taken one by one and not kept.
        fps: frames per second.
        audio: the voice.
        start_frame: the audio frame, at `fps`, that frame 0 was made for; 0 or more.
        metadata: written as one JSON object into the file's comment.

    Raises:
        MediaError: no frames, frames of different sizes, `start_frame` below 0, or what `VideoWriter` refuses.
        DiskFull: there is no room.
    """
    if start_frame < 0:
        raise MediaError(f"start_frame is {start_frame}; it must be 0 or more.")
    rate = frame_rate(fps)
    wanted = -(-len(audio.samples) * rate // audio.rate)
    with VideoWriter(path, fps=rate, audio=audio, metadata=metadata) as writer:
        for index, frame in enumerate(frames):
            for _ in range(min(start_frame + 1, wanted) if index == 0 else 1):
                writer.write(frame)
            if writer.frames >= wanted:
                break
    return probe(path)
