"""The whole preparation: a folder of videos in, a data folder out.

Each clip has a hash of all that it depends on: the contents of the video, the part of it, the options, and the source
of landmarks. Complete clips whose hash is still wanted are kept, so a run that was killed at any moment is run again
and makes only what is missing.
"""

import hashlib
import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.whole_folder import is_temporary, replace_folder, temporary_beside
from training.prepare.clip_folder import CAPTION, FPS, RATE, SOUND, read_caption, read_clip, read_facts
from training.prepare.clips import FILES, SHEET, ClipSpec, Options, make_clip
from training.prepare.cuts import SHORTEST, cut_at_silences
from training.prepare.people import unlike, usual_look
from training.prepare.report import Prepared, Refused, assess, divide, report_json, report_lines
from training.prepare.scenes import scene_changes
from training.prepare.sheets import overview
from wanavatar_lab import locks
from wanavatar_lab.errors import DiskFull, LabError, MediaError, WeightsError
from wanavatar_lab.files import entries, remove, sha256_of, write_bytes, write_json, write_text
from wanavatar_lab.media import MediaInfo, probe, read_audio, write_picture
from wanavatar_lab.metrics.landmarks import SIDECAR, LandmarkSource

FORMAT = 2  # of the data folder; a later one makes every clip again
LISTING, HELD_OUT_LISTING = "video_path.txt", "held_out_path.txt"
SCENES = ".scenes.json"  # the hard cuts of the videos, in the folder of the clips
CAPTION_SUFFIX = ".txt"  # of a file beside a video that describes it
Say = Callable[[str], None]


@dataclass(frozen=True)
class Outcome:
    """The clips, those that are held out, why others are left out, by name, what was refused, and how many were made.

    `made` counts those of this run; the other clips were complete.
    """

    clips: Sequence[Prepared]
    held_out: Sequence[Prepared]
    left_out: Mapping[str, str]
    refused: Sequence[Refused]
    made: int


def prepare(videos: Path, out: Path, source: LandmarkSource, options: Options, say: Say = print) -> Outcome:
    """Prepare every video of a folder and of the folders in it, in the order of their names.

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
    files, refused = videos_in(videos, out)
    folder = out / "processed"
    with _exclusive(folder):
        specs = _plan(files, folder, source, options, refused, say)
        kept = _keep_complete(folder, {name: spec.hash for name, spec in specs.items()}, say)
        todo = {name: spec for name, spec in specs.items() if name not in kept}
        made, failed = _make(folder, todo, source, options, say)
        again = _taken_for_another(kept | made, specs)
        made |= _make(folder, {name: specs[name] for name in again}, source, options, say, again)[0]
        facts = kept | made
        refused += failed
        if not facts:
            raise LabError(
                f"None of the {len(files)} videos in {videos} gave a clip. "
                + " ".join(f"{each.video}: {each.why}" for each in refused)
            )
        clips = assess({name: (folder / name, facts[name]) for name in specs if name in facts})
        held_out, left_out = divide(clips, options.hold_out, keep_out_of_sync=options.keep_out_of_sync)
        _write(out, clips, held_out, left_out)
        # last, since notebooks wait for this file to see that the data is complete
        write_json(out / "report.json", report_json(clips, held_out, left_out, refused, asdict(options)))
    for line in report_lines(clips, held_out, left_out, refused):
        say(line)
    return Outcome(clips, held_out, left_out, refused, len(made))


@dataclass(frozen=True)
class Video:
    """A file to prepare: its path, its name relative to the folder of videos, and the file that describes it."""

    path: Path
    name: str
    caption: Path | None = None


def videos_in(videos: Path, out: Path) -> tuple[list[Video], list[Refused]]:
    """The files of a folder and of the folders in it, in the order of their names, or one file; and what is left out.

    Hidden files, landmarks of drawn videos, and `out` do not count.

    Raises:
        LabError: there is none.
    """
    if not videos.exists():
        raise LabError(f"There is no folder {videos}. Give the one that has the videos.")
    if videos.is_file():
        captions = [path for path in entries(videos.parent) if _is_caption(path)]
        return [Video(videos, _name(videos, videos.parent), _caption_among(captions, videos))], []
    found: list[Video] = []
    refused: list[Refused] = []
    been: set[Path] = {out.resolve()}
    folders = [videos]
    while folders:
        folder = folders.pop()
        if folder.resolve() in been:  # `out`, or a link that leads back
            continue
        been.add(folder.resolve())
        shown = [path for path in entries(folder) if not path.name.startswith(".") and not path.name.endswith(SIDECAR)]
        folders += filter(os.path.isdir, shown)
        captions = [path for path in shown if os.path.isfile(path) and _is_caption(path)]
        taken: set[Path] = set()
        for path in shown:
            if os.path.isfile(path) and path not in captions:
                caption = _caption_among(captions, path)
                taken |= {caption} if caption else set()
                found.append(Video(path, _name(path, videos), caption))
        why = "no video beside it has its name, or another caption of that video fits better, so it is not used."
        refused += [Refused(_name(path, videos), why) for path in captions if path not in taken]
    if not found:
        raise LabError(f"{videos} has no files in it. Put 10 to 30 short videos of one person there.")
    return sorted(found, key=lambda video: video.name), sorted(refused, key=lambda each: each.video)


def _name(path: Path, videos: Path) -> str:
    # names may have bytes that are no text, which JSON and terminals would refuse
    return path.relative_to(videos).as_posix().encode("utf-8", "backslashreplace").decode()


def _is_caption(path: Path) -> bool:
    return path.suffix.casefold() == CAPTION_SUFFIX


def _caption_among(captions: Sequence[Path], video: Path) -> Path | None:
    """The caption of a video: the one of its name, else one whose name differs in case or in its Unicode form."""

    def plain(path: Path) -> str:
        # macOS takes letters apart in names
        return unicodedata.normalize("NFC", path.stem).casefold()

    same = [path for path in captions if plain(path) == plain(video)]
    return min(same, key=lambda path: (path.stem != video.stem, path.suffix != CAPTION_SUFFIX, path.name), default=None)


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
    files: Sequence[Video], folder: Path, source: LandmarkSource, options: Options, refused: list[Refused], say: Say
) -> dict[str, ClipSpec]:
    """The clips to make, by name; adds the videos or parts that give none to `refused`."""
    specs: dict[str, ClipSpec] = {}
    scenes = _Scenes(folder / SCENES)
    for file in files:
        try:
            info = probe(file.path)
            spoken = _sound_of(file.path, info)
            content = sha256_of(file.path)
            cuts = cut_at_silences(spoken, scenes.changes(file.path, content))
            caption = read_caption(file.caption) if file.caption else None
            looks = [asdict(options.dilation), options.missing, options.align, options.zoom]
            depends = [FORMAT, file.name, content, source.identity(file.path), looks, caption]
            depends += [info.hdr] if info.hdr else []
        except (DiskFull, WeightsError):
            raise
        except LabError as error:
            refused.append(Refused(file.name, str(error)))
            continue
        if not cuts.spans and not cuts.too_short:
            refused.append(Refused(file.name, "nobody speaks in it: nothing is louder than -50 dBFS."))
        for span in cuts.too_short:
            between = " between two hard cuts" if len(cuts.scenes) > 1 else ""
            why = (
                f"the speech at {span.seconds:.1f} s lasts {span.frames / FPS:.1f} s with the silence around it"
                f"{between}; a clip must have {SHORTEST / FPS:g} s or more."
            )
            refused.append(Refused(file.name, why))
        for span in cuts.spans:
            hash_ = hashlib.sha256(json.dumps([*depends, asdict(span)]).encode()).hexdigest()
            sound = spoken[span.start * RATE // FPS : span.end * RATE // FPS]
            scene = cuts.scene_of(span)
            if scene == cuts.scenes[-1]:  # the picture may go on after the sound
                scene = replace(scene, end=sys.maxsize)
            name = f"video_{len(specs):03d}"
            specs[name] = ClipSpec(file.path, file.name, span, scene, sound, hash_, content, caption, hdr=info.hdr)
        parts = f" in {len(cuts.scenes)} scenes" if len(cuts.scenes) > 1 else ""
        say(f"{file.name}: {len(cuts.spans)} clip{'' if len(cuts.spans) == 1 else 's'}{parts}")
    scenes.write()
    return specs


class _Scenes:
    """The hard cuts of videos by the hash of their contents, kept so that a video is looked through once.

    Args:
        path: of the file that they are kept in.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # none yet; a damaged one is written again
            kept = {}
        self._known: dict[str, list[int]] = kept if isinstance(kept, dict) and kept.pop("format", 0) == FORMAT else {}
        self._used: dict[str, list[int]] = {}

    def changes(self, video: Path, content: str) -> list[int]:
        """Those of a video, from its contents if they are not known; see `scenes.scene_changes`."""
        found = self._known.get(content)
        self._used[content] = scene_changes(video) if found is None else found
        return self._used[content]

    def write(self) -> None:
        """Keep those of the videos that were asked for."""
        write_json(self._path, {"format": FORMAT, **self._used})


def _sound_of(file: Path, info: MediaInfo) -> NDArray[np.float32]:
    """The sound of a video, [T] at 16 kHz."""
    if info.kind != "video":
        raise MediaError(f"it is {'an' if info.kind == 'audio' else 'a'} {info.kind} file and no video.")
    if info.audio_rate is None:
        raise MediaError("it has no sound, and a clip needs the voice that moves its lips. Export it with sound.")
    if (info.duration or 0) < SHORTEST / FPS:
        raise MediaError(f"it lasts {info.duration:.2f} s; a clip must have {SHORTEST / FPS:g} s or more.")
    return read_audio(file, rate=RATE, mono=True).samples[:, 0]


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
    if any(not (path / name).exists() for name in FILES):
        return False
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
    folder: Path,
    specs: Mapping[str, ClipSpec],
    source: LandmarkSource,
    options: Options,
    say: Say,
    known: Mapping[str, NDArray[np.float64]] | None = None,
) -> tuple[dict[str, Mapping[str, Any]], list[Refused]]:
    """Make clips; returns the facts of those made, by name, and those that failed.

    Args:
        known: how the person looks whom a clip is about, by its name.
    """
    made: dict[str, Mapping[str, Any]] = {}
    failed: list[Refused] = []
    # threads instead of processes: decoding, encoding and MediaPipe release Python's lock, and threads end with the
    # process, however it is killed
    pool = ThreadPoolExecutor(options.workers)
    try:
        jobs = {
            name: pool.submit(make_clip, folder / name, spec, source, options, (known or {}).get(name))
            for name, spec in specs.items()
        }
        for number, (name, job) in enumerate(jobs.items(), 1):
            try:
                made[name] = job.result()
            except (DiskFull, WeightsError):
                raise
            except LabError as error:
                failed.append(Refused(specs[name].name, str(error)))
            say(f"{name}: {number} of {len(jobs)}")
    finally:
        pool.shutdown(cancel_futures=True)
    return made, failed


def _taken_for_another(
    facts: Mapping[str, Mapping[str, Any]], specs: Mapping[str, ClipSpec]
) -> dict[str, NDArray[np.float64]]:
    """Clips of two people or more in which the largest was taken, and another is the person of the video's other clips.

    Returns:
        How that person looks, by the name of the clip.
    """
    found = {}
    for name, clip in facts.items():
        known = usual_look([other for other in facts.values() if other["source"] == clip["source"]])
        if clip["chosen_by"] == "size" and known is not None:
            looks = [each["look"] for each in clip["people"]]
            if min(range(len(looks)), key=lambda i: unlike(looks[i], known)) != clip["chosen"]:
                found[name] = known
    return {name: found[name] for name in specs if name in found}


def _write(out: Path, clips: Sequence[Prepared], held_out: Sequence[Prepared], left_out: Mapping[str, str]) -> None:
    """The lists of clips, the reference picture and voice of sample clips, and the contact sheet of all."""
    apart = {clip.name for clip in held_out}
    for listing, wanted in ((LISTING, False), (HELD_OUT_LISTING, True)):
        used = [clip for clip in clips if clip.name not in left_out and (clip.name in apart) == wanted]
        paths = [str(clip.path.resolve()) + "\n" for clip in used]
        write_text(out / "processed" / listing, "".join(paths))
    trained = [clip for clip in clips if clip.name not in left_out]
    shown, validation = (held_out or trained)[-1], out / "validation"
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
