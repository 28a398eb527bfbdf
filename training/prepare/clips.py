"""Make one clip: frames at 16 fps in sync with the sound, masks, measures and a contact sheet, as an atomic folder.

The video is read twice: once to see who is in it, where the face goes, and how late the mouth is, and once to write.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
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
from training.prepare.measures import FOLLOWS, Observer, sync_of
from training.prepare.people import Crowd, choose, jumps, opening_of
from training.prepare.sheets import Sheet
from wanavatar_lab.errors import MediaError
from wanavatar_lab.media import Audio, VideoWriter, read_frames, write_audio
from wanavatar_lab.metrics.landmarks import Face, LandmarkSource

SHEET = "contact_sheet.png"
# everything in a clip's folder but its caption; anything else was put there by somebody
FILES = frozenset((IMAGES, FACE_MASKS, LIP_MASKS, SOUND, MOVIE, VALID, FACTS, SHEET))
# zlib's fastest: a clip has 240 pictures, and a higher level saves a tenth and takes twice as long
COMPRESSION = 1
ROUNDS = 3  # of aligning: a lag that is beyond what one measurement tries is found by measuring again
# A face less wide than SMALL of the frame's shorter side is zoomed to: it gets ZOOMED of the side of a square, unless
# that would be enlarged more than 1.5 times at a size of the published network, or had no room for where the face goes.
SMALL, ZOOMED, MARGIN = 0.15, 0.25, 1.3
FINEST = 832 / 1.5  # pixels; the longest side in `training.data.segments.ASPECTS`, which would load torch


@dataclass(frozen=True)
class Options:
    """Options of a preparation.

    Attributes:
        dilation: how far masks extend beyond the outlines.
        missing: mask of a frame without a face.
        hold_out: number of clips that are not trained on.
        workers: clips that are made at the same time.
        align: shift the sound of clips that are out of sync by the measured lag.
        keep_out_of_sync: train on clips too whose mouth is late or early, or does not follow the sound.
        zoom: crop clips to the face where it is small.
    """

    dilation: Dilation = field(default_factory=Dilation)
    missing: Missing = "invalid"
    hold_out: int = 1
    workers: int = 2
    align: bool = False
    keep_out_of_sync: bool = False
    zoom: bool = True


@dataclass(frozen=True, eq=False)
class ClipSpec:
    """What a clip is made of.

    Attributes:
        video: the source file.
        name: of the source file, relative to the folder of videos.
        span: the part of its sound.
        scene: the part of its picture without a hard cut; it may end after the picture.
        sound: of `span`, float32 [T] at 16 kHz.
        hash: of everything that the clip depends on.
        source: hash of the source file.
        caption: a description of the video, if there is one.
        late: frames by which the picture is taken later than the sound.
        hdr: "HLG" or "PQ" if the video is HDR; its frames are written as SDR.
    """

    video: Path
    name: str
    span: Span
    scene: Span
    sound: NDArray[np.float32]
    hash: str
    source: str
    caption: str | None = None
    late: int = 0
    hdr: str = ""

    @property
    def start(self) -> float:
        """Where its picture begins in the video, seconds."""
        return (self.span.start + self.late) / FPS

    def part(self, start: int, end: int) -> "ClipSpec":
        """The frames from `start` to before `end` of the same clip."""
        span = replace(self.span, start=self.span.start + start, end=self.span.start + end)
        return replace(self, span=span, sound=self.sound[start * RATE // FPS : end * RATE // FPS])

    def shifted(self, lag: int) -> "ClipSpec":
        """The same sound with the picture `lag` frames later, as far as the scene has it."""
        late = self.late + lag
        start, end = max(self.span.start, self.scene.start - late), min(self.span.end, self.scene.end - late)
        return replace(self.part(start - self.span.start, end - self.span.start), late=late)


def make_clip(
    folder: Path, spec: ClipSpec, source: LandmarkSource, options: Options, known: NDArray[np.float64] | None = None
) -> dict[str, Any]:
    """Make the folder of a clip; returns the contents of its `clip.json`.

    Frame k is the video's frame nearest to `spec.start + k/16`, so frames never drift against the sound.

    Args:
        known: how the person of the video's other clips looks, for clips with several people; see `people.choose`.

    Raises:
        MediaError: the picture ends or jumps before the clip is 3 s long, or the video is damaged.
        DiskFull: there is no room.
        LabError: the source of landmarks refuses the video.
    """
    notes = []
    for attempt in range(ROUNDS + 1):
        crowd = _look(spec, source)
        if crowd.frames < spec.span.frames:
            end = spec.start + crowd.frames / FPS
            spec = _long_enough(spec.part(0, crowd.frames), f"its picture ends at {end:.2f} s")
        choice = choose(crowd, spec.sound, known)
        track = choice.person.track(crowd.frames) if choice.person else [None] * crowd.frames
        lag, lag_r, _ = sync_of(opening_of(track), spec.sound)
        if not options.align or attempt == ROUNDS or not lag or lag_r is None or lag_r < FOLLOWS:
            break
        spec = _long_enough(spec.shifted(lag), f"its sound is shifted by {spec.late + lag} frames")
    if spec.late:
        notes.append(f"aligned: its sound is shifted by {spec.late:+d} frames ({spec.late / FPS:+.2f} s)")
    if cuts := jumps(track):
        start, end = max(pairwise([0, *cuts, len(track)]), key=lambda part: part[1] - part[0])
        where = ", ".join(f"{spec.start + cut / FPS:.2f} s" for cut in cuts)
        notes.append(f"the face jumps at {where}: the longest part without a jump is kept, {(end - start) / FPS:.2f} s")
        spec, track = _long_enough(spec.part(start, end), f"the face jumps at {where}, as at a cut"), track[start:end]
    if note := choice.said():
        notes.append(note)
    with whole_folder(folder) as inside:
        return _fill(inside, spec, track, options, notes, choice.written())


def _look(spec: ClipSpec, source: LandmarkSource) -> Crowd:
    """Who is where in the frames of a clip, of which there are fewer than wanted if the picture ends before."""
    crowd = Crowd()
    with source.everyone(spec.video) as faces_in:
        for index, frame in enumerate(_frames(spec)):
            crowd.see(frame, faces_in(frame, spec.start + index / FPS))
    return crowd


def _frames(spec: ClipSpec) -> Iterator[NDArray[np.uint8]]:
    return read_frames(spec.video, fps=FPS, start=spec.start, limit=spec.span.frames)


def _long_enough(spec: ClipSpec, because: str) -> ClipSpec:
    if spec.span.frames < SHORTEST:
        raise MediaError(
            f"{because}, which leaves {max(0, spec.span.frames) / FPS:.2f} s for a clip; it must have "
            f"{SHORTEST / FPS:g} s or more."
        )
    return spec


def zoom_window(track: Sequence[Face | None], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The square to which a clip is cropped for its small face; None if it is large enough or moves too far.

    Args:
        track: the face in each frame.
        size: (height, width) of the frames.

    Returns:
        left, top, right and bottom in pixels.
    """
    faces = [face for face in track if face is not None]
    if not faces:
        return None
    outlines = np.concatenate([face.oval for face in faces])
    low, high = outlines.min(axis=0), outlines.max(axis=0)
    width = float(np.median([face.width for face in faces]))
    # even, as the movie's sides are
    side = 2 * round(max(width / ZOOMED, FINEST, MARGIN * (high - low).max()) / 2)
    if width >= SMALL * min(size) or side >= min(size):
        return None
    left, top = np.clip(np.round((low + high - side) / 2), 0, np.array(size[::-1]) - side).astype(int).tolist()
    return left, top, left + side, top + side


def _fill(
    inside: Path,
    spec: ClipSpec,
    track: Sequence[Face | None],
    options: Options,
    notes: list[str],
    people: Mapping[str, Any],
) -> dict[str, Any]:
    expected = len(track)
    observer, sheet, valid = Observer(expected), Sheet(expected), []
    maker: MaskMaker | None = None
    window: tuple[int, int, int, int] | None = None
    for kind in (IMAGES, FACE_MASKS, LIP_MASKS):
        (inside / kind).mkdir()
    audio = Audio(spec.sound[:, None], RATE)
    with VideoWriter(inside / MOVIE, fps=FPS, audio=audio) as movie:
        for index, (frame, face) in enumerate(zip(_frames(spec), track, strict=True)):
            if maker is None:
                height, width = frame.shape[:2]
                window = zoom_window(track, (height, width)) if options.zoom else None
                left, top, right, bottom = window or (0, 0, width, height)
                maker = MaskMaker((bottom - top, right - left), options.dilation, options.missing)
            frame, face = frame[top:bottom, left:right], face and face.seen_from(left, top)
            masks = maker.of(face)
            for kind, picture in ((IMAGES, frame), (FACE_MASKS, masks.face), (LIP_MASKS, masks.lips)):
                _save(inside / kind / frame_name(index), picture)
            movie.write(frame)
            observer.see(frame, face, masks)
            sheet.see(frame, masks, face is not None)
            valid.append(masks.valid)
    write_audio(inside / SOUND, audio)
    measures = observer.measures(spec.sound, through_speech=spec.span.through_speech)
    if window:
        side, found = right - left, f"{measures.face_width:.0f} pixels wide in {width}×{height}"
        notes = [*notes, f"zoomed to {side}×{side} at ({left}, {top}): its face is {found}"]
    _save(inside / SHEET, np.asarray(sheet.drawn(measures)))
    (inside / VALID).write_text(json.dumps({"valid": valid, "missing": options.missing}) + "\n", encoding="utf-8")
    if spec.caption is not None:
        (inside / CAPTION).write_text(spec.caption + "\n", encoding="utf-8")
    facts = {
        "hash": spec.hash,
        "source": spec.source,
        "video": spec.name,
        "start": spec.start,
        "frames": len(valid),
        "caption": spec.caption,
        "fps": FPS,
        "late": spec.late,
        "window": window,
        "notes": notes,
        **people,
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
