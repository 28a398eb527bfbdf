"""The whole preparation: a folder of videos in, a data folder out.

Each clip has a hash of all that it depends on: the contents of the video, the part of it, the options, and the source
of landmarks. Complete clips whose hash is still wanted are kept, so a run that was killed at any moment is run again
and makes only what is missing.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.whole_folder import is_temporary, replace_folder, temporary_beside
from training.prepare.clip_folder import CAPTION, FPS, RATE, SOUND, read_clip, read_facts
from training.prepare.clips import FILES, SHEET, ClipSpec, make_clip
from training.prepare.cuts import SHORTEST, cut_at_silences
from training.prepare.draw_masks import Dilation, Missing
from training.prepare.landmarks import SIDECAR, LandmarkSource
from training.prepare.report import Prepared, Refused, assess, choose_held_out, report_json, report_lines
from training.prepare.sheets import overview
from wanavatar_lab import locks
from wanavatar_lab.errors import DiskFull, LabError, MediaError, WeightsError
from wanavatar_lab.files import entries, remove, sha256_of, write_bytes, write_json, write_text
from wanavatar_lab.media import MediaInfo, probe, read_audio, write_picture

FORMAT = 1  # of the data folder; a later one makes every clip again
LISTING, HELD_OUT_LISTING = "video_path.txt", "held_out_path.txt"
CAPTION_SUFFIX = ".txt"  # of a file beside a video that describes it
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """Options of a preparation.

    Attributes:
        dilation: how far masks extend beyond the outlines.
        missing: mask of a frame without a face.
        hold_out: number of clips that are not trained on.
        workers: clips that are made at the same time.
    """

    dilation: Dilation = field(default_factory=Dilation)
    missing: Missing = "invalid"
    hold_out: int = 1
    workers: int = 2


@dataclass(frozen=True)
class Outcome:
    """The clips, those of them that are held out, what was refused, and how many clips were `made` in this run."""

    clips: Sequence[Prepared]
    held_out: Sequence[Prepared]
    refused: Sequence[Refused]
    made: int


def prepare(videos: Path, out: Path, source: LandmarkSource, options: Options, say: Say = print) -> Outcome:
    """Prepare every video of a folder, in the order of their names.

    Args:
        videos: the folder, or one video.
        out: the data folder; clips of other videos that were prepared there before are removed.
        source: of face landmarks.
        say: called with lines of progress and of the report.

    Raises:
        LabError: there is no video or none gave a clip, too few are left to train on, another process prepares the
            same folder, or it has clips that were made elsewhere.
        DiskFull: there is no room; complete clips stay.
    """
    files = _videos_in(videos)
    folder = out / "processed"
    with _exclusive(folder):
        specs, refused = _plan(files, source, options, say)
        kept = _keep_complete(folder, {name: spec.hash for name, spec in specs.items()}, say)
        todo = {name: spec for name, spec in specs.items() if name not in kept}
        made, failed = _make(folder, todo, source, options, say)
        facts = kept | made
        refused += failed
        if not facts:
            raise LabError(
                f"None of the {len(files)} videos in {videos} gave a clip. "
                + " ".join(f"{each.video}: {each.why}" for each in refused)
            )
        clips = assess({name: (folder / name, facts[name]) for name in specs if name in facts})
        held_out = choose_held_out(clips, options.hold_out)
        _write(out, clips, held_out)
        # last, since notebooks wait for this file to see that the data is complete
        write_json(out / "report.json", report_json(clips, held_out, refused, asdict(options)))
    for line in report_lines(clips, held_out, refused):
        say(line)
    return Outcome(clips, held_out, refused, len(made))


def _videos_in(videos: Path) -> list[Path]:
    """The files of a folder in the order of their names, or one file; without captions and landmarks of videos."""
    if not videos.exists():
        raise LabError(f"There is no folder {videos}. Give the one that has the videos.")
    if videos.is_file():
        return [videos]
    files = [
        path
        for path in entries(videos)
        if os.path.isfile(path) and not path.name.startswith(".") and not path.name.endswith(SIDECAR)
    ]
    captions = {path.with_suffix(CAPTION_SUFFIX) for path in files if path.suffix != CAPTION_SUFFIX}
    files = [path for path in files if path not in captions]
    if not files:
        raise LabError(f"{videos} has no files in it. Put 10 to 30 short videos of one person there.")
    return files


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    handle = locks.take(folder / ".lock", wait=False)
    if handle is None:
        raise LabError(f"Another process is preparing {folder}. Wait until it has ended, or choose another folder.")
    try:
        yield
    finally:
        locks.drop(handle)


def _plan(
    files: Sequence[Path], source: LandmarkSource, options: Options, say: Say
) -> tuple[dict[str, ClipSpec], list[Refused]]:
    """The clips to make, by name, and the videos or parts that give none."""
    specs: dict[str, ClipSpec] = {}
    refused: list[Refused] = []
    for file in files:
        try:
            info = probe(file)
            spoken = _sound_of(file, info)
            cuts = cut_at_silences(spoken)
            caption = _caption_of(file)
            depends = [FORMAT, file.name, sha256_of(file), source.identity(file), asdict(options.dilation), caption]
            depends += [info.hdr] if info.hdr else []
        except (DiskFull, WeightsError):
            raise
        except LabError as error:
            refused.append(Refused(file.name, str(error)))
            continue
        if not cuts.spans and not cuts.too_short:
            refused.append(Refused(file.name, "nobody speaks in it: nothing is louder than -50 dBFS."))
        for span in cuts.too_short:
            why = (
                f"the speech at {span.seconds:.1f} s lasts {span.frames / FPS:.1f} s with the silence around it; "
                f"a clip must have {SHORTEST / FPS:g} s or more."
            )
            refused.append(Refused(file.name, why))
        for span in cuts.spans:
            hash_ = hashlib.sha256(json.dumps([*depends, options.missing, asdict(span)]).encode()).hexdigest()
            sound = spoken[span.start * RATE // FPS : span.end * RATE // FPS]
            specs[f"video_{len(specs):03d}"] = ClipSpec(file, span, sound, hash_, caption, info.hdr)
        say(f"{file.name}: {len(cuts.spans)} clip{'' if len(cuts.spans) == 1 else 's'}")
    return specs, refused


def _sound_of(file: Path, info: MediaInfo) -> NDArray[np.float32]:
    """The sound of a video, [T] at 16 kHz."""
    if info.kind != "video":
        raise MediaError(f"it is {'an' if info.kind == 'audio' else 'a'} {info.kind} file and no video.")
    if info.audio_rate is None:
        raise MediaError("it has no sound, and a clip needs the voice that moves its lips. Export it with sound.")
    if (info.duration or 0) < SHORTEST / FPS:
        raise MediaError(f"it lasts {info.duration:.2f} s; a clip must have {SHORTEST / FPS:g} s or more.")
    return read_audio(file, rate=RATE, mono=True).samples[:, 0]


def _caption_of(video: Path) -> str | None:
    caption = video.with_suffix(CAPTION_SUFFIX)
    if not caption.is_file():
        return None
    try:
        return " ".join(caption.read_text(encoding="utf-8-sig").split()) or None
    except UnicodeDecodeError as error:
        raise LabError(f"its caption {caption} is not UTF-8 ({error.reason}). Save it as UTF-8.") from error


def _keep_complete(folder: Path, hashes: Mapping[str, str], say: Say) -> dict[str, Mapping[str, Any]]:
    """Rename complete clips whose hash is wanted to their names and remove the others; returns their facts by name."""
    names = {hash_: name for name, hash_ in hashes.items()}
    kept: dict[str, Mapping[str, Any]] = {}
    moved: list[tuple[Path, str]] = []
    for path in filter(os.path.isdir, entries(folder)):
        facts = read_facts(path)
        if facts is None:
            if is_temporary(path):  # a killed run left it unfinished
                remove(path)
            elif path.name in hashes:
                raise LabError(
                    f"{path} was not made by this preparation, or was changed. Move it away, or prepare into another "
                    "folder."
                )
            continue
        name = names.get(str(facts["hash"]))
        if name is None or name in kept or not _is_complete(path, facts):
            _refuse_to_remove_more(path, facts)
            say(f"{path.name}: removed, since it would not come out like this any more")
            remove(path)
            continue
        kept[name] = facts
        if path.name != name:
            aside = temporary_beside(folder / name)
            os.replace(path, aside)
            moved.append((aside, name))
    # only now, since two clips may exchange their names
    for aside, name in moved:
        replace_folder(aside, folder / name)
    return kept


def _is_complete(path: Path, facts: Mapping[str, Any]) -> bool:
    try:
        return read_clip(path).frames == facts.get("frames")
    except LabError:  # files were deleted or changed since
        return False


def _refuse_to_remove_more(path: Path, facts: Mapping[str, Any]) -> None:
    mine = FILES | ({CAPTION} if facts.get("caption") else set())
    more = [inside.name for inside in entries(path) if inside.name not in mine]
    if more:
        raise LabError(
            f"{path} would be removed, since it would not come out like this any more, and has {', '.join(more)}, "
            "which somebody put there. Move that away first; a caption belongs beside the video, as its name with .txt."
        )


def _make(
    folder: Path, specs: Mapping[str, ClipSpec], source: LandmarkSource, options: Options, say: Say
) -> tuple[dict[str, Mapping[str, Any]], list[Refused]]:
    """Make clips; returns the facts of those made, by name, and those that failed."""
    made: dict[str, Mapping[str, Any]] = {}
    failed: list[Refused] = []
    # threads instead of processes: decoding, encoding and MediaPipe release Python's lock, and threads end with the
    # process, however it is killed
    pool = ThreadPoolExecutor(options.workers)
    try:
        jobs = {
            name: pool.submit(make_clip, folder / name, spec, source, options.dilation, options.missing)
            for name, spec in specs.items()
        }
        for number, (name, job) in enumerate(jobs.items(), 1):
            try:
                made[name] = job.result()
            except (DiskFull, WeightsError):
                raise
            except LabError as error:
                failed.append(Refused(specs[name].video.name, str(error)))
            say(f"{name}: {number} of {len(jobs)}")
    finally:
        pool.shutdown(cancel_futures=True)
    return made, failed


def _write(out: Path, clips: Sequence[Prepared], held_out: Sequence[Prepared]) -> None:
    """The lists of clips, the reference picture and voice of sample clips, and the contact sheet of all."""
    apart = {clip.name for clip in held_out}
    for listing, wanted in ((LISTING, False), (HELD_OUT_LISTING, True)):
        paths = [str(clip.path.resolve()) + "\n" for clip in clips if (clip.name in apart) == wanted]
        write_text(out / "processed" / listing, "".join(paths))
    shown, validation = (held_out or clips)[-1], out / "validation"
    validation.mkdir(exist_ok=True)
    # the frame with the mouth most shut: speech to video starts from a mouth at rest
    shut = int(np.argmin([np.inf if each is None else each for each in shown.measures.opening]))
    write_picture(validation / "reference.png", Image.fromarray(read_clip(shown.path).image(shut)))
    write_bytes(validation / "audio.wav", (shown.path / SOUND).read_bytes())
    sheets = []
    for clip in clips:
        with Image.open(clip.path / SHEET) as sheet:
            sheets.append((clip.name, sheet.convert("RGB")))
    write_picture(out / "contact_sheet.png", overview(sheets))
