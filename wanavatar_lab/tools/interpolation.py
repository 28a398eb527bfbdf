"""A higher frame rate, by FFmpeg's filter `minterpolate`: blocks are followed from frame to frame and moved halfway.

It needs no model and no GPU. A learned network such as RIFE (arXiv:2011.06294) draws large motions and what comes into
view better; block motion can tear there.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import av.filter
import numpy as np
from av.video.frame import VideoFrame

from wanavatar_lab.errors import MediaError
from wanavatar_lab.media import MediaInfo, probe, read_frames
from wanavatar_lab.media.timing import frame_rate
from wanavatar_lab.tools.sound import Progress
from wanavatar_lab.tools.video import SAME_RATE, Frame, frames_of, of_count, sound_of, write_clip

# overlapped blocks of variable size, searched in both directions: the filter's best, and three times as slow
OPTIONS = {"motion": "mi_mode=mci:mc_mode=aobmc:me_mode=bidir:vsbmc=1", "blend": "mi_mode=blend"}
SMALLEST = 32  # pixels: two of the filter's blocks


def interpolate_frames(
    video: Path | str,
    out: Path | str,
    *,
    fps: float | Fraction = 25.0,
    method: Literal["motion", "blend"] = "motion",
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> MediaInfo:
    """Write a video at a higher frame rate, as long as it was and with its sound. Cuts stay cuts.

    Args:
        out: .mp4.
        fps: frames per second of the result, not below those of the video.
        method: motion moves blocks along their motion; blend cross-fades the two frames around.

    Raises:
        MediaError: the rate is below the video's, its frames are too small for motion, or the file cannot be read or
            written.
        DiskFull: there is no room.
    """
    info, wanted = probe(video), frame_rate(fps)
    if info.fps is None or info.steady_fps is None:
        raise MediaError(f"{video} has no picture that moves. Give a video file.")
    if method == "motion" and min(info.width or 0, info.height or 0) < SMALLEST:
        raise MediaError(
            f"{video} has {info.width}×{info.height} pixels, and motion is followed in {SMALLEST}×{SMALLEST} or more. "
            "Choose the method blend."
        )
    own = frame_rate(info.fps)
    if wanted < own - SAME_RATE:
        raise MediaError(
            f"{video} has {float(own):.6g} frames per second, and {float(wanted):.6g} are fewer: no frames are "
            f"computed in between. Give {float(own):.6g} or more."
        )
    # as many as are asked for at most: a phone's 30.003 frames per second count as 30
    own = min(frame_rate(info.steady_fps), wanted)
    count = math.ceil(frames_of(info, own) / own * wanted)  # upwards: nothing is cut of the sound
    frames = of_count(_interpolated(read_frames(video, fps=own), own, wanted, OPTIONS[method]), count)
    write_clip(out, frames, wanted, sound_of(video, info), count, metadata, progress)
    return probe(out)


def _interpolated(frames: Iterator[Frame], own: Fraction, wanted: Fraction, options: str) -> Iterator[Frame]:
    """Frames at another rate, up to the last one."""
    first = next(frames)
    graph = av.filter.Graph()
    height, width = first.shape[:2]
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=1 / own)
    # the filter knows no RGB, and 4:4:4 keeps the colour of every pixel
    steps = [
        ("format", "yuv444p"),
        ("minterpolate", f"fps={wanted}:{options}"),
        ("format", "rgb24"),
        ("buffersink", ""),
    ]
    last = source
    for name, arguments in steps:
        following = graph.add(name, arguments or None)
        last.link_to(following)
        last = following
    graph.configure()
    for place, frame in enumerate(_end_held(itertools.chain([first], frames))):
        given = VideoFrame.from_ndarray(frame, format="rgb24")
        given.pts, given.time_base = place, 1 / own
        graph.push(given)
        yield from _ready(graph)
    graph.push(None)
    yield from _ready(graph)


def _end_held(frames: Iterator[Frame]) -> Iterator[Frame]:
    """Frames with the last one twice more: the filter makes nothing of a frame that fewer than two follow."""
    for frame in frames:
        yield frame
    yield from (frame, frame)


def _ready(graph: av.filter.Graph) -> Iterator[Frame]:
    while True:
        try:
            frame = graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return
        assert isinstance(frame, VideoFrame)
        array = frame.to_ndarray()
        yield array.astype(np.uint8, copy=False)
