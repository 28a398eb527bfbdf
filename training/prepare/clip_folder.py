"""The folder of a clip: its layout, and its reader, also for clips that were made elsewhere.

sub_clip.mp4            picture and sound, for people
audio.wav               16 kHz, mono
images/frame_0000.png   RGB, at 16 fps: frame k is shown from k/16 s of the sound
face_masks/frame_0000.png, lip_masks/frame_0000.png   grey, 0 or 255
valid.json              the frames with a face; missing in folders made elsewhere
caption.txt             a description, the prompt in training; optional
clip.json               source and measures; missing in folders made elsewhere
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from wanavatar_lab.errors import LabError
from wanavatar_lab.files import entries
from wanavatar_lab.media import probe, read_picture

FPS, RATE = 16, 16_000
IMAGES, FACE_MASKS, LIP_MASKS = "images", "face_masks", "lip_masks"
# A clip made elsewhere without its video gets the usual rate at which its frames last as long as its sound, within 3 %:
# neighbouring rates differ by 4 % or more.
USUAL_RATES, UNSURE = (16, 24, 25, 30, 50, 60), 0.03
SOUND, MOVIE, VALID, FACTS, CAPTION = "audio.wav", "sub_clip.mp4", "valid.json", "clip.json", "caption.txt"


@dataclass(frozen=True)
class ClipFolder:
    """A complete clip.

    Attributes:
        path: its folder.
        frames: number of frames.
        width, height: of frames and masks, in pixels.
        fps: of the frames; 16 if this package made them.
    """

    path: Path
    frames: int
    width: int
    height: int
    fps: float = FPS

    @property
    def sound(self) -> Path:
        """The sound, 16 kHz mono if this package made it."""
        return self.path / SOUND

    def steps(self) -> NDArray[np.int64]:
        """Indices of the frames nearest to 0/16 s, 1/16 s and so on, [frames · 16 / fps]."""
        count = max(1, int(self.frames * FPS / self.fps + 1e-6))
        return np.minimum(np.rint(np.arange(count) * self.fps / FPS), self.frames - 1).astype(np.int64)

    def caption(self) -> str | None:
        """Its description; None without one. Raises as `read_caption` does."""
        return read_caption(self.path / CAPTION) if (self.path / CAPTION).is_file() else None

    def image(self, index: int) -> NDArray[np.uint8]:
        """A frame, RGB [H, W, 3]."""
        return np.asarray(read_picture(self.path / IMAGES / frame_name(index)))

    def mask(self, kind: str, index: int) -> NDArray[np.uint8]:
        """The mask of a frame, 0 to 255, [H, W]; `kind` is `FACE_MASKS` or `LIP_MASKS`."""
        return np.asarray(read_picture(self.path / kind / frame_name(index)).convert("L"))

    def valid(self) -> NDArray[np.bool_]:
        """Whether the masks of each frame are those of a face, [frames].

        Without a record, masks that are all black or all white count as those of no face: the predecessor wrote white
        ones for such frames, on which a loss of the lips would be one of the whole picture.

        Raises:
            LabError: the record is damaged, or has another number of frames.
        """
        record = self.path / VALID
        if not record.is_file():
            return np.array([all(_is_of_a_part(self.mask(kind, i)) for kind in _MASKS) for i in range(self.frames)])
        try:
            valid = [bool(each) for each in json.loads(record.read_text(encoding="utf-8"))["valid"]]
        except (ValueError, KeyError, TypeError) as error:
            raise LabError(f"{record} is damaged ({error!r}). Prepare the clip again.") from error
        if len(valid) != self.frames:
            raise LabError(f"{record} has {len(valid)} frames and the clip has {self.frames}. Prepare it again.")
        return np.array(valid, dtype=np.bool_)


_MASKS = (FACE_MASKS, LIP_MASKS)


def frame_name(index: int) -> str:
    """The name of a frame's files."""
    return f"frame_{index:04d}.png"


def read_clips(listing: Path | str) -> list[ClipFolder]:
    """The clips of a `video_path.txt`: one folder per line, absolute or relative to the folder of the list.

    Raises:
        LabError: the list is missing or empty, or names a folder twice or one that is not a complete clip.
    """
    path = Path(listing)
    if not path.is_file():
        raise LabError(f"There is no list of clips at {path}. `python -m training.prepare` writes video_path.txt.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabError(f"{path} is not a list of clips in UTF-8 ({error.reason}). Give video_path.txt.") from error
    folders = [path.parent / line.strip() for line in text.splitlines() if line.strip()]
    if not folders:
        raise LabError(f"{path} names no clip. It has one folder in each line.")
    twice = {folder for folder in folders if folders.count(folder) > 1}
    if twice:
        raise LabError(f"{path} names {min(twice)} more than once. Leave one of the lines.")
    return [read_clip(folder) for folder in folders]


def read_clip(path: Path | str) -> ClipFolder:
    """Check that a folder is a complete clip: masks for every frame, all of one size, and a sound of the same length.

    Raises:
        LabError: it is not; the text names what is missing or differs.
    """
    path = Path(path)
    if not path.is_dir():
        raise LabError(f"There is no clip {path}. If the data was moved, prepare it again or correct the list.")
    names = _frames_in(path / IMAGES)
    for kind in _MASKS:
        masks = _frames_in(path / kind)
        if masks != names:
            odd = min(masks ^ names)
            lacks, has = (kind, IMAGES) if odd in names else (IMAGES, kind)
            raise LabError(
                f"{path} has {len(names)} files in {IMAGES} and {len(masks)} in {kind}: {odd} is in {has} and not in "
                f"{lacks}. Each frame needs its masks under the same name."
            )
    expected = {frame_name(index) for index in range(len(names))}
    if names != expected:
        raise LabError(f"{path}/{IMAGES} lacks {min(expected - names)}. Frames are numbered from 0 without gaps.")
    sizes: dict[tuple[int, int], Path] = {}
    for kind in (IMAGES, *_MASKS):
        for name in sorted(names):
            sizes.setdefault(_size(path / kind / name), path / kind / name)
    if len(sizes) > 1:
        (one, first), (other, second) = list(sizes.items())[:2]
        raise LabError(
            f"{second} has {other[0]}×{other[1]} pixels and {first} has {one[0]}×{one[1]}. All frames and masks of a "
            "clip must have one size."
        )
    if not (path / SOUND).is_file():
        raise LabError(f"{path} has no {SOUND}. A clip needs its sound, 16 kHz and mono.")
    (width, height) = next(iter(sizes))
    fps = FPS if read_facts(path) is not None else _rate_of(path, len(names))
    return ClipFolder(path, len(names), width, height, fps)


def read_facts(folder: Path) -> dict[str, Any] | None:
    """The `clip.json` of a clip; None if this package did not make the folder, or did not finish it."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) and "hash" in facts else None


def read_caption(path: Path) -> str | None:
    """The text of a caption in one line; None if it is empty.

    Raises:
        LabError: it is not UTF-8.
    """
    try:
        return " ".join(path.read_text(encoding="utf-8-sig").split()) or None
    except UnicodeDecodeError as error:
        raise LabError(f"The caption {path} is not UTF-8 ({error.reason}). Save it as UTF-8.") from error


def _frames_in(folder: Path) -> set[str]:
    if not folder.is_dir():
        raise LabError(f"{folder.parent} has no folder {folder.name}. A clip has {IMAGES}, {FACE_MASKS}, {LIP_MASKS}.")
    names = {entry.name for entry in entries(folder) if not entry.name.startswith(".")}
    if not names:
        raise LabError(f"{folder} is empty. A clip has a {frame_name(0)} there, and so on.")
    return names


def _size(path: Path) -> tuple[int, int]:
    """(width, height), from the file's header."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.size
    except (UnidentifiedImageError, OSError) as error:
        raise LabError(f"{path} is no PNG picture that can be read ({error}). Make it again.") from error


def _rate_of(path: Path, frames: int) -> float:
    """The frame rate of a clip that was made elsewhere: its video's if the folder has every frame of it, or guessed."""
    if (path / MOVIE).is_file():
        movie = probe(path / MOVIE)
        if movie.fps and movie.frames is not None and abs(movie.frames - frames) <= 1:
            return movie.fps
    seconds = probe(path / SOUND).duration or 0.0
    nearest = min(USUAL_RATES, key=lambda rate: abs(frames / rate - seconds))
    if abs(frames / nearest - seconds) > UNSURE * seconds:
        raise LabError(
            f"{path} has {frames} frames and {seconds:.2f} s of sound, which no usual frame rate explains. Frames and "
            f"sound must last the same; put the video they are of beside them as {MOVIE}, or prepare it again."
        )
    return nearest


def _is_of_a_part(mask: NDArray[np.uint8]) -> bool:
    inside = mask > 127
    return bool(inside.any() and not inside.all())
