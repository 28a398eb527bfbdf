"""Make one clip: frames at 16 fps in sync with the sound, masks, measures and a contact sheet, as an atomic folder."""

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
# everything in a clip's folder but its caption; anything else was put there by somebody
FILES = frozenset((IMAGES, FACE_MASKS, LIP_MASKS, SOUND, MOVIE, VALID, FACTS, SHEET))
# zlib's fastest: a clip has 240 pictures, and a higher level saves a tenth and takes twice as long
COMPRESSION = 1


@dataclass(frozen=True, eq=False)
class ClipSpec:
    """What a clip is made of.

    Attributes:
        video: the source file.
        span: the part of it.
        sound: of that part, float32 [T] at 16 kHz.
        hash: of everything that the clip depends on.
        caption: a description of the video, if there is one.
        hdr: "HLG" or "PQ" if the video is HDR; its frames are written as SDR.
    """

    video: Path
    span: Span
    sound: NDArray[np.float32]
    hash: str
    caption: str | None = None
    hdr: str = ""

    def cut(self, frames: int) -> "ClipSpec":
        """The same clip, shortened to `frames`."""
        return replace(
            self, span=replace(self.span, end=self.span.start + frames), sound=self.sound[: frames * RATE // FPS]
        )


def make_clip(
    folder: Path, spec: ClipSpec, source: LandmarkSource, dilation: Dilation, missing: Missing
) -> dict[str, Any]:
    """Make the folder of a clip; returns the contents of its `clip.json`.

    Frame k is the video's frame nearest to `spec.span.seconds + k/16`, so frames never drift against the sound.

    Raises:
        MediaError: the picture ends before the clip is 3 s long, or the video is damaged.
        DiskFull: there is no room.
        LabError: the source of landmarks refuses the video.
    """
    while True:
        try:
            with whole_folder(folder) as inside:
                return _fill(inside, spec, source, dilation, missing)
        except _PictureEnds as early:
            if early.frames < SHORTEST:
                raise MediaError(
                    f"its picture ends at {spec.span.seconds + early.frames / FPS:.2f} s, which leaves "
                    f"{early.frames / FPS:.2f} s for a clip; it must have {SHORTEST / FPS:g} s or more."
                ) from None
            spec = spec.cut(early.frames)


class _PictureEnds(Exception):
    """The picture ends after `frames` frames, before the sound."""

    def __init__(self, frames: int) -> None:
        super().__init__(frames)
        self.frames = frames


def _fill(inside: Path, spec: ClipSpec, source: LandmarkSource, dilation: Dilation, missing: Missing) -> dict[str, Any]:
    expected = spec.span.frames
    observer, sheet, valid = Observer(expected), Sheet(expected), []
    maker: MaskMaker | None = None
    for kind in (IMAGES, FACE_MASKS, LIP_MASKS):
        (inside / kind).mkdir()
    audio = Audio(spec.sound[:, None], RATE)
    frames = read_frames(spec.video, fps=FPS, start=spec.span.seconds, limit=expected)
    with source.follow(spec.video) as face_in, VideoWriter(inside / MOVIE, fps=FPS, audio=audio) as movie:
        for index, frame in enumerate(frames):
            maker = maker or MaskMaker((frame.shape[0], frame.shape[1]), dilation, missing)
            face = face_in(frame, spec.span.seconds + index / FPS)
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
    measures = observer.measures(spec.sound, through_speech=spec.span.through_speech)
    _save(inside / SHEET, np.asarray(sheet.drawn(measures)))
    (inside / VALID).write_text(json.dumps({"valid": valid, "missing": missing}) + "\n", encoding="utf-8")
    if spec.caption is not None:
        (inside / CAPTION).write_text(spec.caption + "\n", encoding="utf-8")
    facts = {
        "hash": spec.hash,
        "video": spec.video.name,
        "start": spec.span.seconds,
        "frames": len(valid),
        "caption": spec.caption,
        "fps": FPS,
        "hdr": spec.hdr,
        "measures": measures.written(),
    }
    # last: it marks the folder as complete
    (inside / FACTS).write_text(json.dumps(facts, ensure_ascii=False) + "\n", encoding="utf-8")
    return facts


def _save(path: Path, picture: NDArray[np.uint8]) -> None:
    # encoded in memory, since Pillow hides the cause when the disk is full
    memory = io.BytesIO()
    Image.fromarray(picture).save(memory, format="PNG", compress_level=COMPRESSION)
    path.write_bytes(memory.getvalue())
