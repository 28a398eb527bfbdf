"""One clip: frames at 16 fps in step with their sound, masks, measures and a contact sheet; a whole folder or none."""

import io
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.whole_folder import whole_folder
from training.prepare.clip_folder import (
    CAPTION,
    FACE_MASKS,
    FACTS,
    FPS,
    IMAGES,
    LIP_MASKS,
    MOVIE,
    RATE,
    SOUND,
    VALID,
    frame_name,
)
from training.prepare.cuts import SHORTEST, Span
from training.prepare.draw_masks import Dilation, MaskMaker, Missing
from training.prepare.landmarks import LandmarkSource
from training.prepare.measures import Observer
from training.prepare.sheets import Sheet
from wanavatar_lab.errors import MediaError
from wanavatar_lab.media import Audio, VideoWriter, read_frames, write_audio

SHEET = "contact_sheet.png"
# all that a clip's folder has; where there is more, somebody has put it there
FILES = frozenset((IMAGES, FACE_MASKS, LIP_MASKS, SOUND, MOVIE, VALID, FACTS, SHEET))
# zlib's fastest: 240 pictures a clip are written, and a higher level saves a tenth and takes twice as long
COMPRESSION = 1


@dataclass(frozen=True, eq=False)
class Order:
    """What clip to make.

    Attributes:
        video: of which file.
        span: which part of it.
        sound: float32 [T] at 16 kHz, that part's.
        mark: the hash of all that the clip depends on.
        caption: what is seen and done in the video, where somebody wrote it down.
    """

    video: Path
    span: Span
    sound: NDArray[np.float32]
    mark: str
    caption: str | None = None

    def cut(self, frames: int) -> "Order":
        """The same clip, so many frames long."""
        return replace(
            self, span=replace(self.span, end=self.span.start + frames), sound=self.sound[: frames * RATE // FPS]
        )


def make_clip(
    folder: Path, order: Order, source: LandmarkSource, dilation: Dilation, missing: Missing
) -> dict[str, Any]:
    """Make the folder of a clip, and give what its `clip.json` says.

    Frame k is the one of the video nearest to `order.span.seconds + k/16`, so frames never drift against the sound.

    Raises:
        MediaError: the picture ends before the clip is 3 s long, or the video is damaged.
        DiskFull: there is no room.
        LabError: the source of landmarks refuses the video.
    """
    while True:
        try:
            with whole_folder(folder) as inside:
                return _made(inside, order, source, dilation, missing)
        except _PictureEnds as early:
            if early.frames < SHORTEST:
                raise MediaError(
                    f"its picture ends at {order.span.seconds + early.frames / FPS:.2f} s, which leaves "
                    f"{early.frames / FPS:.2f} s for a clip; it must have {SHORTEST / FPS:g} s or more."
                ) from None
            order = order.cut(early.frames)


class _PictureEnds(Exception):
    """The picture ended after `frames` frames, and the sound goes on."""

    def __init__(self, frames: int) -> None:
        super().__init__(frames)
        self.frames = frames


def _made(inside: Path, order: Order, source: LandmarkSource, dilation: Dilation, missing: Missing) -> dict[str, Any]:
    """Fill the folder, and give what its `clip.json` says."""
    expected = order.span.frames
    observer, sheet, valid = Observer(expected), Sheet(expected), []
    maker: MaskMaker | None = None
    for kind in (IMAGES, FACE_MASKS, LIP_MASKS):
        (inside / kind).mkdir()
    audio = Audio(order.sound[:, None], RATE)
    frames = read_frames(order.video, fps=FPS, start=order.span.seconds, limit=expected)
    with source.follow(order.video) as face_in, VideoWriter(inside / MOVIE, fps=FPS, audio=audio) as movie:
        for index, frame in enumerate(frames):
            maker = maker or MaskMaker((frame.shape[0], frame.shape[1]), dilation, missing)
            face = face_in(frame, order.span.seconds + index / FPS)
            masks = maker.of(face)
            for kind, picture in ((IMAGES, frame), (FACE_MASKS, masks.face), (LIP_MASKS, masks.lips)):
                _save(inside / kind / frame_name(index), picture)
            movie.write(frame)
            observer.see(frame, face, masks)
            sheet.see(frame, masks, face is not None)
            valid.append(masks.valid)
        if len(valid) < expected:
            raise _PictureEnds(len(valid))
    write_audio(inside / SOUND, audio)
    measures = observer.measures(order.sound, through_speech=order.span.through_speech)
    _save(inside / SHEET, np.asarray(sheet.drawn(measures)))
    (inside / VALID).write_text(json.dumps({"valid": valid, "missing": missing}) + "\n", encoding="utf-8")
    if order.caption is not None:
        (inside / CAPTION).write_text(order.caption + "\n", encoding="utf-8")
    facts = {
        "hash": order.mark,
        "video": order.video.name,
        "start": order.span.seconds,
        "frames": len(valid),
        "caption": order.caption,
        "fps": FPS,
        "measures": measures.written(),
    }
    # last, since a folder that has it is a whole one
    (inside / FACTS).write_text(json.dumps(facts, ensure_ascii=False) + "\n", encoding="utf-8")
    return facts


def _save(path: Path, picture: NDArray[np.uint8]) -> None:
    # by way of memory, since Pillow's own writing loses the reason when the disk is full
    memory = io.BytesIO()
    Image.fromarray(picture).save(memory, format="PNG", compress_level=COMPRESSION)
    path.write_bytes(memory.getvalue())
