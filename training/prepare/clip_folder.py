"""The folder of a clip: how it is laid out, and read wherever it was made.

sub_clip.mp4            picture and sound, for people
audio.wav               16 kHz, mono
images/frame_0000.png   RGB, at 16 fps: frame k is shown from k/16 s of the sound on
face_masks/frame_0000.png, lip_masks/frame_0000.png   grey, 0 or 255
valid.json              in which frames there was a face; folders made elsewhere lack it
caption.txt             what is seen and done, where somebody wrote it down: training takes it for the prompt
clip.json               what this was made of, and what was measured; folders made elsewhere lack it
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
# of clips made elsewhere, and by which share the lengths of frames and sound may differ when only they tell the rate
USUAL_RATES = (16, 24, 25, 30, 50, 60)
UNSURE = 0.03
SOUND, MOVIE, VALID, FACTS, CAPTION = "audio.wav", "sub_clip.mp4", "valid.json", "clip.json", "caption.txt"


@dataclass(frozen=True)
class ClipFolder:
    """A clip that was found to be complete.

    Attributes:
        path: its folder.
        frames: how many there are.
        width, height: of the frames and of the masks, in pixels.
        fps: at which the frames were taken: 16 where this package made them.
    """

    path: Path
    frames: int
    width: int
    height: int
    fps: float = FPS

    @property
    def sound(self) -> Path:
        """The sound, 16 kHz mono where this package made it."""
        return self.path / SOUND

    def steps(self) -> NDArray[np.int64]:
        """Which frame is shown at 0/16 s, 1/16 s and so on: the nearest in time, [frames · 16 / fps]."""
        count = max(1, int(self.frames * FPS / self.fps + 1e-6))
        return np.minimum(np.rint(np.arange(count) * self.fps / FPS), self.frames - 1).astype(np.int64)

    def image(self, index: int) -> NDArray[np.uint8]:
        """A frame, RGB [H, W, 3]."""
        return np.asarray(read_picture(self.path / IMAGES / frame_name(index)))

    def mask(self, kind: str, index: int) -> NDArray[np.uint8]:
        """The mask of a frame, 0 to 255, [H, W]; `kind` is `FACE_MASKS` or `LIP_MASKS`."""
        return np.asarray(read_picture(self.path / kind / frame_name(index)).convert("L"))

    def valid(self) -> NDArray[np.bool_]:
        """In which frames the masks are those of a face, [frames].

        Where nobody recorded it, a mask that is all black or all white is taken for that of no face: the predecessor's
        preparation left white ones, and a loss over the lips would be one over all of the picture there.

        Raises:
            LabError: the record is damaged, or is of another number of frames.
        """
        record = self.path / VALID
        if not record.is_file():
            return np.array([all(_is_of_a_part(self.mask(kind, i)) for kind in _MASKS) for i in range(self.frames)])
        try:
            valid = [bool(each) for each in json.loads(record.read_text(encoding="utf-8"))["valid"]]
        except (ValueError, KeyError, TypeError) as error:
            raise LabError(f"{record} is damaged ({error!r}). Prepare the clip again.") from error
        if len(valid) != self.frames:
            raise LabError(f"{record} tells of {len(valid)} frames and the clip has {self.frames}. Prepare it again.")
        return np.array(valid, dtype=np.bool_)


_MASKS = (FACE_MASKS, LIP_MASKS)


def frame_name(index: int) -> str:
    """The name of a frame's files."""
    return f"frame_{index:04d}.png"


def read_clips(listing: Path | str) -> list[ClipFolder]:
    """The clips of a `video_path.txt`: a folder a line, absolute or as seen from the folder that the list is in.

    Raises:
        LabError: there is no such list, it names nothing, a folder twice, or a folder that is no complete clip.
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
    """Look whether a folder is a complete clip: as many masks as frames, all of one size, and a sound that fits.

    Raises:
        LabError: it is not; the text says what is missing or differs.
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
    """What this package wrote of a clip; None if it did not make the folder, or did not finish it."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) and "hash" in facts else None


def _frames_in(folder: Path) -> set[str]:
    if not folder.is_dir():
        raise LabError(f"{folder.parent} has no folder {folder.name}. A clip has {IMAGES}, {FACE_MASKS}, {LIP_MASKS}.")
    names = {entry.name for entry in entries(folder) if not entry.name.startswith(".")}
    if not names:
        raise LabError(f"{folder} is empty. A clip has a {frame_name(0)} there, and so on.")
    return names


def _size(path: Path) -> tuple[int, int]:
    """(width, height), from the file's head alone."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return image.size
    except (UnidentifiedImageError, OSError) as error:
        raise LabError(f"{path} is no PNG picture that can be read ({error}). Make it again.") from error


def _rate_of(path: Path, frames: int) -> float:
    """The frame rate of a clip that was made elsewhere: that of its video, if its frames are all of them."""
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
