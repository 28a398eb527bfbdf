"""Which clips are to be made: the videos of a folder, where each is cut, and the hash of all that a clip depends on."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.prepare.clip_folder import FPS, RATE
from training.prepare.clips import Order
from training.prepare.cuts import SHORTEST, cut_at_silences
from training.prepare.draw_masks import Dilation, Missing
from training.prepare.landmarks import SIDECAR, LandmarkSource
from training.prepare.report import Refused
from wanavatar_lab.errors import DiskFull, LabError, MediaError, WeightsError
from wanavatar_lab.files import entries
from wanavatar_lab.media import probe, read_audio
from wanavatar_lab.weights.download import sha256_of

FORMAT = 1  # of what is written; a later one makes every clip again
CAPTION_SUFFIX = ".txt"  # of a file beside a video that tells what is seen and done in it
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """How to prepare.

    Attributes:
        dilation: by how much masks are larger than the outlines.
        missing: what a frame without a face gets.
        hold_out: how many clips are not trained on.
        workers: clips that are made at the same time.
    """

    dilation: Dilation = field(default_factory=Dilation)
    missing: Missing = "invalid"
    hold_out: int = 1
    workers: int = 2


def videos_in(videos: Path) -> list[Path]:
    """The files of a folder in the order of their names, or one file; captions and landmarks of videos are left out.

    Raises:
        LabError: there are none.
    """
    if not videos.exists():
        raise LabError(f"There is no folder {videos}. Give the one that has the videos.")
    if videos.is_file():
        return [videos]
    files = sorted(
        entry.path
        for entry in entries(videos)
        if entry.is_file() and not entry.name.startswith(".") and not entry.name.endswith(SIDECAR)
    )
    captions = {_caption_of(path) for path in files if path.suffix != CAPTION_SUFFIX}
    files = [path for path in files if path not in captions]
    if not files:
        raise LabError(f"{videos} has no files in it. Put 10 to 30 short videos of one person there.")
    return files


def planned(
    files: Sequence[Path], source: LandmarkSource, options: Options, say: Say
) -> tuple[dict[str, Order], list[Refused]]:
    """The clips to be made, by name, and what gives none.

    Raises:
        WeightsError: the source of landmarks lacks its weights.
    """
    orders: dict[str, Order] = {}
    refused: list[Refused] = []
    for file in files:
        try:
            spoken = sound_of(file)
            cuts = cut_at_silences(spoken)
            caption = _written(_caption_of(file))
            depends = [FORMAT, file.name, sha256_of(file), source.identity(file), asdict(options.dilation), caption]
        except (DiskFull, WeightsError):
            raise
        except LabError as error:
            refused.append(Refused(file.name, str(error)))
            continue
        if not cuts.spans and not cuts.too_short:
            refused.append(Refused(file.name, "nobody speaks in it: nothing is louder than -50 dBFS."))
        refused += [
            Refused(
                file.name,
                f"the speech at {span.seconds:.1f} s lasts {span.frames / FPS:.1f} s with the silence around it; a "
                f"clip must have {SHORTEST / FPS:g} s or more.",
            )
            for span in cuts.too_short
        ]
        for span in cuts.spans:
            mark = hashlib.sha256(json.dumps([*depends, options.missing, asdict(span)]).encode()).hexdigest()
            sound = spoken[span.start * RATE // FPS : span.end * RATE // FPS]
            orders[f"video_{len(orders):03d}"] = Order(file, span, sound, mark, caption)
        say(f"{file.name}: {len(cuts.spans)} clips")
    return orders, refused


def sound_of(file: Path) -> NDArray[np.float32]:
    """The sound of a video, [T] at 16 kHz.

    Raises:
        MediaError: it is no video, has no sound, or is too short.
    """
    info = probe(file)
    if info.kind != "video":
        raise MediaError(f"it is {'an' if info.kind == 'audio' else 'a'} {info.kind} file and no video.")
    if info.audio_rate is None:
        raise MediaError("it has no sound, and a clip needs the voice that moves its lips. Export it with sound.")
    if (info.duration or 0) < SHORTEST / FPS:
        raise MediaError(f"it lasts {info.duration:.2f} s; a clip must have {SHORTEST / FPS:g} s or more.")
    return read_audio(file, rate=RATE, mono=True).samples[:, 0]


def _caption_of(video: Path) -> Path:
    return video.with_suffix(CAPTION_SUFFIX)


def _written(caption: Path) -> str | None:
    if not caption.is_file():
        return None
    try:
        return " ".join(caption.read_text(encoding="utf-8-sig").split()) or None
    except UnicodeDecodeError as error:
        raise LabError(f"its caption {caption} is not UTF-8 ({error.reason}). Save it as UTF-8.") from error
