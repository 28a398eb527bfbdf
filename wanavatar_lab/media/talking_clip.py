"""Picture and voice in one file, in sync."""

from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wanavatar_lab.errors import MediaError
from wanavatar_lab.media.audio import Audio
from wanavatar_lab.media.probe import MediaInfo, probe
from wanavatar_lab.media.timing import frame_rate
from wanavatar_lab.media.video_writer import VideoWriter


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
