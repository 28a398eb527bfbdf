"""The results of a chain: measures of the talking clip, a report as text, and copies of the files."""

import os
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from wanavatar_lab import media, metrics
from wanavatar_lab.errors import DiskFull, LabError
from wanavatar_lab.files import whole_file
from wanavatar_lab.metrics.lip_sync import RATE
from wanavatar_lab.pipeline.run import Made
from wanavatar_lab.runs.status import LOADING


@dataclass(frozen=True)
class Measures:
    """What is measured of a talking clip, from its file.

    Attributes:
        frames: of the picture.
        picture: seconds of it.
        sound: seconds of it.
        lips: opening of the mouth against loudness; None if it was not measured.
        why_no_lips: the reason.
    """

    frames: int
    picture: float
    sound: float
    lips: metrics.LipSync | None
    why_no_lips: str = ""


def measure(clip: os.PathLike[str] | str, opening: ArrayLike | Sequence[float | None] | None) -> Measures:
    """Measure a talking clip from its decoded picture and sound.

    Args:
        opening: how far the mouth is open in every frame, [F], None in it where no face was found; None if all are
            unknown.

    Raises:
        MediaError: the clip cannot be read.
    """
    clip = Path(clip)
    frames = sum(1 for _ in media.read_frames(clip))
    sound = media.read_audio(clip, rate=RATE, mono=True)
    lips, reason = None, "nothing here reads the mouths of such pictures"
    mouth = np.array(np.nan if opening is None else opening, dtype=np.float64, ndmin=1)
    if (seen := np.isfinite(mouth)).any():
        mouth = np.interp(np.arange(len(mouth)), np.flatnonzero(seen), mouth[seen])
        try:
            lips, reason = metrics.lip_sync(mouth, sound.samples[:, 0]), ""
        except ValueError as error:  # a mouth that never moves or a voice that is silent: a finding, not a fault
            reason = str(error)
    fps = media.probe(clip).fps or metrics.FPS
    return Measures(frames, frames / fps, sound.seconds, lips, reason)


def report(made: Sequence[Made], measures: Measures, folder: Path) -> str:
    """A table of the files with the time and memory of each, and a line for each measure.

    Args:
        made: from `follow`.
        measures: of the talking clip.
        folder: where the files were copied.
    """
    rows = [("file", "size", "kB", "stage", "seconds", "of it loading", "peak memory, MB")]
    total, devices = 0.0, set()
    for one in made:
        path = folder / one.link.file
        info, manifest, memory = media.probe(path), one.job.run.manifest(), one.status.memory_bytes
        seconds = (one.status.finished_at or 0.0) - (one.status.submitted_at or 0.0)
        total += seconds
        devices.add(str(manifest["device"]))
        rows.append(
            (
                str(path),
                f"{info.width}x{info.height}" if info.width else f"{info.duration:.1f} s",
                f"{path.stat().st_size / 1000:.0f}",
                one.link.request.stage,
                f"{seconds:.1f}",
                f"{manifest['seconds'].get(LOADING, 0.0):.1f}",
                "?" if memory is None else f"{memory / 1e6:.0f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    sync = f"not measured: {measures.why_no_lips}"
    if (lips := measures.lips) is not None:
        frames = f"{abs(lips.lag)} frame{'s' if abs(lips.lag) > 1 else ''} {'late' if lips.lag > 0 else 'early'}"
        when = frames if lips.lag else "in time"
        sync = f"Pearson r {lips.r:.2f}; best lag {lips.lag} ({when}), r {lips.r_at_lag:.2f} there"
    lines += [
        "",
        f"all stages: {total:.1f} s on {', '.join(sorted(devices))}",
        f"talking clip: picture {measures.picture:.2f} s ({measures.frames} frames), sound {measures.sound:.2f} s",
        f"lips against loudness: {sync}",
    ]
    return "\n".join(lines)


def make_folder(out: Path | str) -> Path:
    """Create the folder for results if it does not exist; call it before the work, to learn of an error in time.

    Returns:
        Its absolute path.

    Raises:
        LabError: it cannot be created, or cannot be written to.
    """
    folder = Path(os.path.abspath(out))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"out: {str(out)!r} cannot be made ({error.strerror}); give a folder.") from error
    if not os.access(folder, os.W_OK):
        raise LabError(f"out: the folder {str(out)!r} cannot be written to; give another one.")
    return folder


def hand_over(made: Sequence[Made], folder: Path) -> list[Path]:
    """Copy the results into `folder`, all of them or none, so that it never holds files of two chains.

    Returns:
        The copies, in the order of `made`.

    Raises:
        DiskFull: there is no room; earlier files in the folder are unchanged.
        LabError: a file cannot be written.
    """
    try:
        # every context renames its file on leaving the stack, when all copies are complete
        with ExitStack() as stack:
            for one in made:
                temporary = stack.enter_context(whole_file(folder / one.link.file))
                shutil.copyfile(one.path, temporary)
    except DiskFull as error:
        places = ", ".join(str(one.path.parent) for one in made)
        raise DiskFull(f"There is no room for the results in {folder}. Free some; they are in {places}.") from error
    except OSError as error:
        raise LabError(f"The results could not be written to {folder} ({error.strerror}).") from error
    return [folder / one.link.file for one in made]
