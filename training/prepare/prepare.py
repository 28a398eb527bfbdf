"""All of the preparation: videos in, a data folder out. What is whole and would come out the same is kept.

Each clip has a hash of what it depends on: the video's contents, the part of it, the options, and the source of
landmarks. A run that was killed at any moment is run again, and only what is missing is made.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.data.whole_folder import is_temporary, replace_folder, temporary_beside
from training.prepare.clip_folder import CAPTION, SOUND, read_clip, read_facts
from training.prepare.clips import FILES, SHEET, Order, make_clip
from training.prepare.landmarks import LandmarkSource
from training.prepare.plan import Options, Say, planned, videos_in
from training.prepare.report import Prepared, Refused, as_json, chosen_to_hold_out, lines, prepared
from training.prepare.sheets import overview
from wanavatar_lab import locks
from wanavatar_lab.errors import DiskFull, LabError, WeightsError
from wanavatar_lab.files import entries, remove, write_bytes, write_json, write_text
from wanavatar_lab.media import write_picture

LISTING, HELD_OUT_LISTING = "video_path.txt", "held_out_path.txt"


@dataclass(frozen=True)
class Outcome:
    """What was prepared: `clips`, those `held_out` of them, what was `refused`, and how many clips were `made` anew."""

    clips: Sequence[Prepared]
    held_out: Sequence[Prepared]
    refused: Sequence[Refused]
    made: int


def prepare(videos: Path, out: Path, source: LandmarkSource, options: Options, say: Say = print) -> Outcome:
    """Prepare every video of a folder, in the order of their names.

    Args:
        videos: the folder; or one video.
        out: the data folder; clips of other videos that were prepared there before are removed.
        source: where faces are.
        say: hears how far it is, and the report.

    Raises:
        LabError: there is no video or none gave a clip, too few are left to train on, another process prepares the
            same folder, or there are folders of clips that were made elsewhere.
        DiskFull: there is no room; clips that are whole stay.
    """
    files = videos_in(videos)
    folder = out / "processed"
    with _alone(folder):
        orders, refused = planned(files, source, options, say)
        kept = _settled(folder, {name: order.mark for name, order in orders.items()}, say)
        todo = {name: order for name, order in orders.items() if name not in kept}
        failed = _make(folder, todo, source, options, say)
        refused += list(failed.values())
        folders = {name: (folder / name, _facts(folder / name)) for name in orders if name not in failed}
        if not folders:
            raise LabError(
                f"None of the {len(files)} videos in {videos} gave a clip. "
                + " ".join(f"{each.video}: {each.why}" for each in refused)
            )
        clips = prepared(folders)
        held_out = chosen_to_hold_out(clips, options.hold_out)
        _write(out, clips, held_out, refused, options)
    for line in lines(clips, held_out, refused):
        say(line)
    return Outcome(clips, held_out, refused, len(todo) - len(failed))


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    handle = locks.take(folder / ".lock", wait=False)
    if handle is None:
        raise LabError(f"Another process is preparing {folder}. Wait until it has ended, or choose another folder.")
    try:
        yield
    finally:
        locks.drop(handle)


def _settled(folder: Path, marks: Mapping[str, str], say: Say) -> set[str]:
    """Bring every clip that is there and whole to its name, remove what is of no use, and give the names that are done.

    Raises:
        LabError: a folder that is in the way was not made here.
    """
    names = {mark: name for name, mark in marks.items()}
    moved: list[tuple[Path, str]] = []
    done: set[str] = set()
    for path in (entry.path for entry in entries(folder) if entry.is_folder()):
        facts = read_facts(path)
        if facts is None and not is_temporary(path):
            if path.name in marks:
                raise LabError(
                    f"{path} was not made by this preparation, or was changed. Move it away, or prepare into another "
                    "folder."
                )
            continue
        name = names.get(str(facts["hash"])) if facts else None
        if facts is None or name is None or name in done or not _is_whole(path, facts):
            if facts is not None:
                _refuse_to_remove_more(path, facts)
                say(f"{path.name}: removed, since it would not come out like this any more")
            remove(path)
            continue
        done.add(name)
        if path.name != name:
            aside = temporary_beside(folder / name)
            os.replace(path, aside)
            moved.append((aside, name))
    for aside, name in moved:
        replace_folder(aside, folder / name)
    return done


def _refuse_to_remove_more(path: Path, facts: Mapping[str, Any]) -> None:
    mine = FILES | ({CAPTION} if facts.get("caption") else set())
    more = sorted(inside.name for inside in path.iterdir() if inside.name not in mine)
    if more:
        raise LabError(
            f"{path} would be removed, since it would not come out like this any more, and has {', '.join(more)}, "
            "which somebody put there. Move that away first; a caption belongs beside the video, as its name with .txt."
        )


def _is_whole(path: Path, facts: Mapping[str, Any]) -> bool:
    try:
        return read_clip(path).frames == facts.get("frames")
    except LabError:  # files were deleted or changed since: it is made again
        return False


def _make(
    folder: Path, orders: Mapping[str, Order], source: LandmarkSource, options: Options, say: Say
) -> dict[str, Refused]:
    """Make the clips; those that cannot be made, by name."""
    failed: dict[str, Refused] = {}
    # threads and no processes: what takes the time, decoding, encoding and MediaPipe, runs without Python's lock, and
    # threads are gone at once when the process is killed
    pool = ThreadPoolExecutor(options.workers)
    try:
        jobs = {
            name: pool.submit(make_clip, folder / name, order, source, options.dilation, options.missing)
            for name, order in orders.items()
        }
        for number, (name, job) in enumerate(jobs.items(), 1):
            try:
                job.result()
            except (DiskFull, WeightsError):
                raise
            except LabError as error:
                failed[name] = Refused(orders[name].video.name, str(error))
            say(f"{name}: {number} of {len(jobs)}")
    finally:
        pool.shutdown(cancel_futures=True)
    return failed


def _facts(path: Path) -> Mapping[str, Any]:
    facts = read_facts(path)
    if facts is None:
        raise LabError(f"{path} vanished while it was prepared. Run it again.")
    return facts


def _write(
    out: Path, clips: Sequence[Prepared], held_out: Sequence[Prepared], refused: Sequence[Refused], options: Options
) -> None:
    folder, apart = out / "processed", {clip.name for clip in held_out}
    for listing, wanted in ((LISTING, False), (HELD_OUT_LISTING, True)):
        paths = [str(clip.path.resolve()) + "\n" for clip in clips if (clip.name in apart) == wanted]
        write_text(folder / listing, "".join(paths))
    _write_validation(out / "validation", (held_out or clips)[-1])
    sheets = []
    for clip in clips:
        with Image.open(clip.path / SHEET) as sheet:
            sheets.append((clip.name, sheet.convert("RGB")))
    write_picture(out / "contact_sheet.png", overview(sheets))
    # last, since who waits for the data waits for it
    write_json(out / "report.json", as_json(clips, held_out, refused, asdict(options)))


def _write_validation(folder: Path, clip: Prepared) -> None:
    """The picture and the voice that samples are made of while training: a frame with the mouth shut, and the sound."""
    folder.mkdir(exist_ok=True)
    opening = [np.inf if each is None else each for each in clip.measures.opening]
    shut = int(np.argmin(opening))
    write_picture(folder / "reference.png", Image.fromarray(read_clip(clip.path).image(shut)))
    write_bytes(folder / "audio.wav", (clip.path / SOUND).read_bytes())
