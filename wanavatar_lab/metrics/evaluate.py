"""Evaluate a talking clip from its file: lips against the sound, the same person, flicker, borders, lost frames.

    found = evaluate("talking.mp4")
    found.measures()["lip_r"], found.notes          # numbers by name, and what could not be measured and why
    pairs("before/", "after/")                      # clips of two folders that belong together

Frames are read one by one, so a clip of any length takes the same memory. The same clip gives the same numbers.
"""

import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from wanavatar_lab import media
from wanavatar_lab.errors import LabError, MediaError, WeightsError
from wanavatar_lab.metrics.face_readers import FaceReader, FaceReading, grid_of, reader_for, request_of
from wanavatar_lab.metrics.face_recognition import FaceRecognizer
from wanavatar_lab.metrics.identity import (
    Region,
    likeness_of,
    merged,
    outline_difference,
    region_colours,
    typical_outline,
)
from wanavatar_lab.metrics.landmarks import Face
from wanavatar_lab.metrics.lip_sync import FPS, RATE, lip_sync, loudness, opening_by_sound
from wanavatar_lab.metrics.motion import frame_differences, segment_borders
from wanavatar_lab.metrics.picture_faults import (
    detail,
    flicker,
    frozen,
    is_black,
    largest_cell_change,
    stretches,
)
from wanavatar_lab.runs.uploads import KINDS

__all__ = ["MEASURES", "Borders", "Evaluation", "Identity", "Lips", "Measure", "evaluate", "pairs", "table"]

REACH_SECONDS = 0.5  # the largest lag of lips that is tried
# a mouth whose opening is not known in more than this share of the frames is not compared with the sound
MOST_UNKNOWN = 0.5
PART_SECONDS = 2.0  # a person's look is averaged over parts of the clip of about this length
FRAMES_PER_SEGMENT = 80  # of speech_to_video
EMBEDDED = 4  # faces that are embedded per second; each takes 10 ms
CHUNK_BYTES = 64 << 20  # of frames that are held at a time
SUFFIXES = tuple(suffix for suffix, kind in KINDS.items() if kind == "video")
PICTURE = "picture"  # the region that is the whole frame

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measure:
    """A number of the table: its label, unit, and which values are better ("" if that depends on the clip)."""

    label: str
    unit: str = ""
    better: str = ""
    digits: int = 2


MEASURES = {
    "lip_r": Measure("Lips follow the sound, r", better="higher"),
    "lip_lag_ms": Measure("Lips late (+) or early (−)", "ms", "nearer to 0", 0),
    "lip_r_at_lag": Measure("r at that lag", better="higher"),
    "lip_silence": Measure("Opening in silence / in speech", "%", "lower", 0),
    "face_found": Measure("Frames with a face", "%", "higher", 0),
    "face_likeness": Measure("Likeness of the face, worst part", better="higher"),
    "face_outline": Measure("Outline of the face, worst part", "% of width", "lower", 1),
    "face_colour": Measure("Colour of the skin, worst part", "ΔE", "lower", 1),
    "colour_drift": Measure("Colour drift of the picture", "ΔE", "lower", 1),
    "flicker_luminance": Measure("Flicker of the luminance", "levels", "lower", 2),
    "flicker_texture": Measure("Flicker of the texture", "%", "lower", 1),
    "border_jump": Measure("Largest jump at a border", "× median", "lower", 1),
    "largest_jump": Measure("Largest jump anywhere", "× median", "lower", 1),
    "black_frames": Measure("Black frames", "", "lower", 0),
    "frozen_seconds": Measure("Frozen", "s", "lower", 2),
}


@dataclass(frozen=True)
class Lips:
    """The mouth against the sound.

    Attributes:
        r: Pearson's r of opening and loudness; None if one of them never changes.
        lag: frames by which the mouth is late where r is highest, negative if early; `r_at_lag` is r there.
        silence, speech: mean opening in silent and in all other frames, on the face reader's scale; None where there
            are no such frames.
    """

    r: float | None
    lag: int | None
    r_at_lag: float | None
    silence: float | None
    speech: float | None


@dataclass(frozen=True)
class Identity:
    """Whether the person stays the same, by successive parts of the clip.

    Attributes:
        reference: what the parts are compared with: a picture's name, or "first part".
        starts: the first frame of each part.
        colours: for each part, CIEDE2000 of each region to the reference; None where the part does not show it.
        outline: for each part, how far the face's outline is from the reference's, as a share of its width; None
            without landmarks.
        likeness: for each part, the cosine of the face's mean embedding and the reference's, see `face_recognition`;
            None where no face was embedded.
    """

    reference: str
    starts: list[int]
    colours: list[dict[str, float | None]]
    outline: list[float | None]
    likeness: list[float | None]


@dataclass(frozen=True)
class Borders:
    """Change of the picture from frame to frame, in 8-bit levels.

    Attributes:
        median: of the whole clip.
        frames: the first frame of each segment but the first.
        jumps: the change at each of these, as a multiple of the median; None if most of the clip does not move.
        largest_at, largest: the frame that differs most from the one before, and that multiple.
    """

    median: float
    frames: list[int]
    jumps: list[float] | None
    largest_at: int | None
    largest: float | None


@dataclass(frozen=True)
class Evaluation:
    """What was measured of a clip.

    Attributes:
        clip: its name.
        faces: the source of faces, see `face_readers.SOURCES`; empty if none could be used.
        face_found: share of the frames.
        lips, identity: None if they could not be measured.
        flicker_luminance: of the mean luma, 8-bit levels; mean over the frames, see `picture_faults.flicker`.
        flicker_texture: of the amount of fine detail, as a share of the mean amount.
        flashes: the frame whose luma is farthest from its neighbours' mean, and by how many levels.
        black, frozen: stretches of frames: the first one and the one after the last.
        notes: what could not be measured, and why.
        opening, level: of each frame: opening of the mouth, None without a face; loudness, full scale 1.
    """

    clip: str
    seconds: float
    fps: float
    frames: int
    width: int
    height: int
    faces: str
    face_found: float
    lips: Lips | None
    identity: Identity | None
    flicker_luminance: float
    flicker_texture: float
    flash_at: int | None
    flash: float
    borders: Borders
    black: list[tuple[int, int]]
    frozen: list[tuple[int, int]]
    notes: list[str]
    opening: list[float | None]
    level: list[float]

    def measures(self) -> dict[str, float | None]:
        """The numbers of `MEASURES`, by name, in the units of the table; None where one could not be measured."""
        lips, look = self.lips, self.identity
        known = [each for each in (look.outline if look else []) if each is not None]
        alike = [each for each in (look.likeness if look else []) if each is not None]
        skin = [value for each in (look.colours if look else []) if (value := each.get("skin")) is not None]
        lag = None if lips is None or lips.lag is None else 1000 * lips.lag / self.fps
        silence = None
        if lips is not None and lips.silence is not None and lips.speech:
            silence = 100 * lips.silence / lips.speech
        return {
            "lip_r": lips.r if lips else None,
            "lip_lag_ms": lag,
            "lip_r_at_lag": lips.r_at_lag if lips else None,
            "lip_silence": silence,
            "face_found": 100 * self.face_found if self.faces else None,
            "face_likeness": min(alike) if alike else None,
            "face_outline": 100 * max(known) if known else None,
            "face_colour": max(skin) if skin else None,
            "colour_drift": look.colours[-1][PICTURE] if look else None,
            "flicker_luminance": self.flicker_luminance,
            "flicker_texture": 100 * self.flicker_texture,
            "border_jump": max(self.borders.jumps) if self.borders.jumps else None,
            "largest_jump": self.borders.largest,
            "black_frames": float(sum(end - start for start, end in self.black)),
            "frozen_seconds": sum(end - start for start, end in self.frozen) / self.fps,
        }

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values, with the numbers of the table as `measures`."""
        return {"measures": self.measures(), **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` wrote."""
        parts: dict[str, Any] = {"lips": Lips, "identity": Identity, "borders": Borders}
        read = {name: kind(**data[name]) for name, kind in parts.items() if data[name] is not None}
        spans = {name: [(start, end) for start, end in data[name]] for name in ("black", "frozen")}
        return cls(**{name: value for name, value in data.items() if name != "measures"} | read | spans)


def evaluate(
    clip: os.PathLike[str] | str,
    *,
    faces: str = "auto",
    reference: Path | str | None = None,
    borders: Sequence[int] | None = None,
) -> Evaluation:
    """Measure a clip.

    Args:
        clip: a video file, with sound if its lips are to be compared with it.
        faces: see `face_readers.reader_for`.
        reference: a picture of the person; None compares with the first part of the clip.
        borders: the first frame of each segment but the first; None takes those of the request in the clip's run, or
            those of `speech_to_video` at its 16 frames per second, every 80 frames; none at another rate.

    Raises:
        MediaError: the clip or the picture cannot be read.
        WeightsError: `faces` was named, and its weights are missing. With "auto" that is a note.
        LabError: `faces` is not possible, or a border is outside of the clip.
    """
    path = Path(clip)
    info = media.probe(path)
    if info.kind != "video" or not info.steady_fps:
        raise MediaError(f"{path} is {'a picture' if info.kind == 'picture' else 'sound alone'}. Give a video.")
    rate, notes = Fraction(info.steady_fps).limit_denominator(1001), [info.missing] if info.missing else []
    tracks = _Tracks(rate, notes)
    with ExitStack() as stack:
        reader: FaceReader | None = None
        try:
            reader = stack.enter_context(reader_for(path, faces))
        except WeightsError as error:
            if faces != "auto":
                raise
            notes.append(f"Lips and face were not measured: {error}")
        for frames in _chunks(media.read_frames(path, fps=rate)):
            tracks.see(frames, reader)
    shown = reader.source if reader else ""
    fps, count = float(rate), len(tracks.luma)
    opening = np.concatenate(tracks.opening)
    found = float(np.isfinite(opening).mean())
    level = np.zeros(count)
    if info.audio_rate:
        sound = media.read_audio(path, rate=RATE, mono=True)
        notes += [sound.missing] if sound.missing else []
        level = loudness(sound.samples[:, 0], frames=count, fps=fps)
        lips = _lips(opening, sound.samples[:, 0], level, fps, notes) if reader else None
    else:
        lips = None
        notes.append("Lips were not measured: the clip has no sound.")
    looks = _reference(Path(reference), shown, tracks) if reference else None
    if borders is None:
        # the frames before the first one that the network makes are shown too, so every segment is as long
        asked = request_of(path).get("frames_per_segment")
        segment = asked if isinstance(asked, int) and asked > 0 else FRAMES_PER_SEGMENT  # null, or written by another
        borders = segment_borders(count, first=segment, per_segment=segment) if rate == FPS else []
    wobble = flicker(tracks.luma)
    texture = flicker(tracks.detail)
    return Evaluation(
        clip=os.fspath(clip),
        seconds=round(count / fps, 4),
        fps=fps,
        frames=count,
        width=int(info.width or 0),
        height=int(info.height or 0),
        faces=shown,
        face_found=found,
        lips=lips,
        identity=_identity(tracks, fps, looks, str(reference or ""), notes),
        flicker_luminance=float(wobble.mean()) if len(wobble) else 0.0,
        flicker_texture=float(texture.mean() / max(np.mean(tracks.detail), 1e-9)) if len(texture) else 0.0,
        flash_at=int(wobble.argmax()) + 1 if len(wobble) else None,
        flash=float(wobble.max()) if len(wobble) else 0.0,
        borders=_borders(np.array(tracks.change), list(borders), notes),
        black=stretches(tracks.black),
        frozen=frozen(tracks.cell_change, fps),
        notes=notes,
        opening=[None if math.isnan(each) else round(float(each), 5) for each in opening],
        level=[round(float(each), 6) for each in level],
    )


def pairs(first: Path | str, other: Path | str | None = None) -> list[tuple[Path, Path | None]]:
    """The clips to evaluate: a clip or those of a folder, each with the one of `other` that belongs to it.

    Clips of two folders belong together by their names (without suffix), if any are the same, and a warning names the
    others, which are left out; else in the order of their names.

    Raises:
        LabError: a folder has no clips, there is no such file, or none have the same name and one folder has more.
    """
    mine = _clips(Path(first))
    if other is None:
        return [(clip, None) for clip in mine]
    theirs = _clips(Path(other))
    by_name = {clip.stem: clip for clip in theirs}
    shared = [clip for clip in mine if clip.stem in by_name]
    if shared and max(len(mine), len(theirs)) > 1:
        names = {clip.stem for clip in shared}
        if alone := [str(clip) for clip in (*mine, *theirs) if clip.stem not in names]:
            _log.warning("Left out, since no clip of the other folder has that name: %s.", ", ".join(alone))
        return [(clip, by_name[clip.stem]) for clip in shared]
    if len(mine) != len(theirs):
        raise LabError(
            f"{first} has {len(mine)} clips and {other} has {len(theirs)}, and no two have the same name. Give as "
            "many, or name those alike that belong together."
        )
    return list(zip(mine, theirs, strict=True))


def table(found: Sequence[tuple[Mapping[str, Any], Mapping[str, Any] | None]]) -> list[str]:
    """The measures of clips as lines of text, with a column for each side; of several clips their medians.

    Args:
        found: `Evaluation.to_json` of each clip, and of the one that it is compared with.
    """
    sides = [[clip for clip in side if clip] for side in zip(*found, strict=True)]
    sides = [side for side in sides if side]
    names = [str(side[0]["clip"]) for side in sides]
    if len(found) > 1:
        names = [f"{Path(name).parent} (median of {len(found)})" for name in names]
    rows = [("", *names)]
    for name, measure in MEASURES.items():
        values = []
        for side in sides:
            known = [value for clip in side if (value := clip["measures"][name]) is not None]
            values.append(f"{median(known):.{measure.digits}f}" if known else "–")
        rows.append((f"{measure.label}{f', {measure.unit}' if measure.unit else ''}", *values))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [first.ljust(widths[0]), *(value.rjust(width) for value, width in zip(rest, widths[1:], strict=True))]
        )
        for first, *rest in rows
    ]


def _clips(place: Path) -> list[Path]:
    if place.is_dir():
        # hidden ones are no clips: macOS keeps what it notes of a.mp4 as ._a.mp4 on disks of other systems
        clips = (path for path in place.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
        found = sorted(path for path in clips if not path.name.startswith("."))
        if not found:
            raise LabError(f"{place} has no clips; they are files that end in {', '.join(SUFFIXES)}.")
        return found
    if not place.is_file():
        raise LabError(f"There is no {place}. Give a clip, or a folder of clips.")
    return [place]


class _Tracks:
    """What is kept of each frame."""

    def __init__(self, rate: Fraction, notes: list[str]) -> None:
        self.rate, self.notes = rate, notes
        self.embedded: dict[int, NDArray[np.float64]] = {}  # embeddings of faces by the number of the frame
        self.luma: list[float] = []
        self.detail: list[float] = []
        self.black: list[bool] = []
        self.change: list[float] = []
        self.cell_change: list[float] = []
        self.opening: list[NDArray[np.float64]] = []
        self.regions: list[Mapping[str, Region]] = []
        self.faces: list[Face | None] = []
        self._before: NDArray[np.uint8] | None = None  # the last frame
        self._recognizer: FaceRecognizer | None = None
        self._may_embed = True  # until its weights are missing

    def see(self, frames: NDArray[np.uint8], reader: FaceReader | None) -> None:
        """Measure the next frames, uint8 [F, H, W, 3]."""
        first = len(self.luma)
        with_before = frames if self._before is None else np.concatenate([self._before[None], frames])
        greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in with_before]
        self.change += frame_differences(with_before).tolist()
        self.cell_change += [largest_cell_change(after, before) for before, after in pairwise(greys)]
        for grey in greys[-len(frames) :]:
            self.luma.append(float(grey.mean()))
            self.detail.append(detail(grey))
            self.black.append(is_black(grey))
        self._before = frames[-1].copy()
        if reader is None:
            reading = FaceReading(np.full(len(frames), np.nan), {}, [None] * len(frames))
        else:
            reading = reader.read(frames, [float((first + i) / self.rate) for i in range(len(frames))])
        self.opening.append(reading.opening)
        self.faces += reading.faces
        every = max(1, round(self.rate / EMBEDDED))
        for i, face in enumerate(reading.faces):
            if (first + i) % every == 0 and (embedding := self.embed(frames[i], face)) is not None:
                self.embedded[first + i] = embedding
        self.regions += _looks(frames, reading)

    def embed(self, frame: NDArray[np.uint8], face: Face | None) -> NDArray[np.float64] | None:
        """The embedding of a face in a frame; None without its marks or without the weights, which is noted."""
        if face is None or face.marks is None or not self._may_embed:
            return None
        try:
            self._recognizer = self._recognizer or FaceRecognizer()
        except WeightsError as error:
            self.notes.append(f"The likeness of the face was not measured: {error}")
            self._may_embed = False
            return None
        return self._recognizer.embed(frame, face)


@dataclass(frozen=True)
class _Known:
    """A source of masks that are known already."""

    masks: Mapping[str, NDArray[np.float64]]

    def regions(self, frames: NDArray[np.uint8]) -> Mapping[str, NDArray[np.float64]]:
        return self.masks


def _looks(frames: NDArray[np.uint8], reading: FaceReading) -> list[Mapping[str, Region]]:
    """The colours of the regions of each frame, and of the whole of it."""
    down, across = next(
        ((mask.shape[1], mask.shape[2]) for mask in reading.regions.values()),
        grid_of((frames.shape[1], frames.shape[2])),
    )
    found: list[Mapping[str, Region]] = []
    for i, frame in enumerate(frames):
        # of the size of the masks, which region_colours asks for
        small = cv2.resize(frame, (across, down), interpolation=cv2.INTER_AREA)
        masks = {name: mask[i : i + 1] for name, mask in reading.regions.items()}
        found.append(region_colours(small[None], _Known(masks | {PICTURE: np.ones((1, down, across))})))
    return found


def _chunks(frames: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    held: list[NDArray[np.uint8]] = []
    for frame in frames:
        held.append(frame)
        if len(held) * frame.nbytes >= CHUNK_BYTES:
            yield np.stack(held)
            held = []
    if held:
        yield np.stack(held)


def _lips(
    opening: NDArray[np.float64], sound: NDArray[np.float32], level: NDArray[np.float64], fps: float, notes: list[str]
) -> Lips | None:
    known = np.isfinite(opening)
    if known.mean() < 1 - MOST_UNKNOWN:
        notes.append(f"Lips were not measured: a face was found in {known.mean():.0%} of the frames only.")
        return None
    places = np.arange(len(opening))
    mouth = np.interp(places, places[known], opening[known])
    silence, speech = opening_by_sound(mouth, level, fps=fps)
    reach = min(max(1, round(REACH_SECONDS * fps)), len(mouth) // 2 - 1)
    try:
        sync = lip_sync(mouth, sound, fps=fps, reach=reach)
    except ValueError as error:  # a mouth that never moves, a silent sound: a finding about the clip
        notes.append(f"Lips and sound have no correlation: {error}")
        return Lips(None, None, None, silence, speech)
    return Lips(sync.r, sync.lag, sync.r_at_lag, silence, speech)


_Look = tuple[Mapping[str, Region], Face | None, NDArray[np.float64] | None]


def _reference(picture: Path, source: str, tracks: _Tracks) -> _Look:
    """The colours of a picture's regions, its face, by the source that reads the clip, and that face's embedding."""
    frames = np.asarray(media.read_picture(picture))[None]
    if source in ("", "drawn"):  # a picture has no landmarks beside it
        return _looks(frames, FaceReading(np.full(1, np.nan), {}, [None]))[0], None, None
    with reader_for(picture, source) as reader:
        reading = reader.read(frames, [0.0])
    face = reading.faces[0]
    if not np.isfinite(reading.opening).any():
        tracks.notes.append(f"Nothing of the face is compared with {picture.name}: no face was found in that picture.")
    return _looks(frames, reading)[0], face, tracks.embed(frames[0], face)


def _identity(tracks: _Tracks, fps: float, looks: _Look | None, name: str, notes: list[str]) -> Identity | None:
    count = len(tracks.luma)
    parts = max(2, round(count / fps / PART_SECONDS))
    starts = [round(part * count / parts) for part in range(parts)]
    if count < parts:
        notes.append("Identity was not measured: the clip is too short.")
        return None
    spans = list(pairwise([*starts, count]))
    regions = [merged(tracks.regions[start:end]) for start, end in spans]
    outlines = [[face.oval for face in tracks.faces[start:end] if face is not None] for start, end in spans]
    embedded = [[tracks.embedded[i] for i in range(start, end) if i in tracks.embedded] for start, end in spans]
    means = [np.mean(each, axis=0) if each else None for each in embedded]
    look, face, embedding = looks or (regions[0], None, means[0])
    if looks is None and "skin" not in look and any("skin" in each for each in regions):
        notes.append(
            "Nothing of the face is compared with the first part of the clip, which shows none: give a picture of the "
            "person as the reference."
        )
    oval = None
    if face is not None:
        oval = face.oval
    elif looks is None and outlines[0]:
        oval = typical_outline(outlines[0], outlines[0][0])
    colours = likeness_of(look, regions).segments
    return Identity(
        reference=name or "first part",
        starts=starts,
        colours=[{key: value if math.isfinite(value) else None for key, value in each.items()} for each in colours],
        likeness=[None if mean is None or embedding is None else _cosine(mean, embedding) for mean in means],
        outline=[outline_difference(each, oval) if each and oval is not None else None for each in outlines],
    )


def _cosine(first: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(first @ other / (np.linalg.norm(first) * np.linalg.norm(other)))


def _borders(change: NDArray[np.float64], borders: list[int], notes: list[str]) -> Borders:
    outside = [border for border in borders if not 0 < border <= len(change)]
    if outside:
        raise LabError(f"The borders {outside} are not within a clip of {len(change) + 1} frames.")
    median = float(np.median(change)) if len(change) else 0.0
    if median == 0:
        notes.append("Jumps were not measured: most frames equal the one before.")
        return Borders(0.0, borders, None, None, None)
    largest = int(change.argmax())
    jumps = [float(change[border - 1] / median) for border in borders]
    return Borders(median, borders, jumps, largest + 1, float(change[largest] / median))


def __dir__() -> list[str]:
    return __all__
