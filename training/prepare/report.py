"""All clips of a preparation together: duplicates, blur, which clips are held out, and the report as JSON and text."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from training.prepare.clip_folder import FPS
from training.prepare.measures import Measures
from wanavatar_lab.errors import LabError

BLURRED = 0.25  # a face less sharp than this share of the median clip's is flagged
ALIKE = 10  # bits of 64 by which the nearest frames of two clips may differ
# correlation of the loudness of two clips, at the best lag of up to a second, over what they share: two seconds or more
SAME_SOUND, REACH, LEAST = 0.95, FPS, 2 * FPS


@dataclass(frozen=True)
class Refused:
    """A video, or a part of it, that gave no clip, and the reason."""

    video: str
    why: str


@dataclass(frozen=True)
class Prepared:
    """A clip of the report.

    Attributes:
        name: of its folder.
        path: its folder.
        facts: contents of its `clip.json`.
        measures: of its frames and sound.
        problems: its own, and those among the other clips.
    """

    name: str
    path: Path
    facts: Mapping[str, Any]
    measures: Measures
    problems: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Its length."""
        return int(self.facts["frames"]) / FPS


def assess(folders: Mapping[str, tuple[Path, Mapping[str, Any]]]) -> list[Prepared]:
    """The clips, given as (folder, facts) by name, with the problems of each by itself and among the others."""
    measures = {name: Measures(**facts["measures"]) for name, (_, facts) in folders.items()}
    twins = duplicates(measures)
    usual = float(np.median([each.sharpness for each in measures.values()])) if measures else 0.0
    clips = []
    for name, (path, facts) in folders.items():
        found = measures[name]
        problems = list(found.problems)
        if name in twins:
            problems.append(f"shows and says the same as {twins[name]}")
        if found.sharpness < BLURRED * usual:
            problems.append(f"blurred: its sharpness is {found.sharpness:.0f} and that of most {usual:.0f}")
        clips.append(Prepared(name, path, facts, found, tuple(problems)))
    return clips


def duplicates(clips: Mapping[str, Measures]) -> dict[str, str]:
    """Each duplicate with the name of its first occurrence, as when a video is there twice, cut or encoded differently.

    Both pictures and sound are compared, since one person in front of one wall looks alike in every clip.
    """
    found: dict[str, str] = {}
    for (first, one), (second, other) in combinations(clips.items(), 2):
        if first not in found and second not in found and looks_alike(one, other) and sounds_alike(one, other):
            found[second] = first
    return found


def looks_alike(one: Measures, other: Measures) -> bool:
    """Whether some frame of one clip is like some frame of the other, by perceptual hashes."""
    return any(
        (int(first, 16) ^ int(second, 16)).bit_count() <= ALIKE for first in one.hashes for second in other.hashes
    )


def sounds_alike(one: Measures, other: Measures) -> bool:
    """Whether the loudness of both rises and falls at the same times, up to a shift."""

    def correlation(lag: int) -> float:
        a, b = np.array(one.level[max(0, lag) :]), np.array(other.level[max(0, -lag) :])
        shared = min(len(a), len(b))
        a, b = a[:shared], b[:shared]
        if shared < LEAST or a.std() == 0 or b.std() == 0:
            return 0.0
        return float(np.corrcoef(a, b)[0, 1])

    return any(correlation(lag) >= SAME_SOUND for lag in range(-REACH, REACH + 1))


def choose_held_out(clips: Sequence[Prepared], count: int) -> list[Prepared]:
    """The last `count` clips without problems, in order; if these are too few, the last of the others too.

    Raises:
        LabError: nothing would be left to train on.
    """
    if count >= len(clips):
        raise LabError(
            f"There {'is' if len(clips) == 1 else 'are'} {len(clips)} clip{'s' * (len(clips) != 1)} and {count} to be "
            "held out, which leaves none to train on. Give more video, or hold out fewer: `--hold-out 0` is none."
        )
    by_worth = sorted(range(len(clips)), key=lambda i: (bool(clips[i].problems), -i))
    return [clips[i] for i in sorted(by_worth[:count])]


def report_json(
    clips: Sequence[Prepared], held_out: Sequence[Prepared], refused: Sequence[Refused], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The report as JSON takes it."""
    out = {clip.name for clip in held_out}
    found = [clip.measures.face_found for clip in clips]
    return {
        "clips": [
            {
                "name": clip.name,
                **{key: value for key, value in clip.facts.items() if key not in ("measures", "hash")},
                "seconds": clip.seconds,
                "held_out": clip.name in out,
                **{key: value for key, value in clip.measures.written().items() if key != "hashes"},
                "problems": list(clip.problems),
            }
            for clip in clips
        ],
        "refused": [{"video": each.video, "why": each.why} for each in refused],
        "seconds": sum(clip.seconds for clip in clips),
        "face_found": round(float(np.mean(found)), 4) if found else None,
        "flagged": [clip.name for clip in clips if clip.problems],
        "options": dict(options),
    }


def report_lines(clips: Sequence[Prepared], held_out: Sequence[Prepared], refused: Sequence[Refused]) -> list[str]:
    """The report for people: a summary, a line per clip, and what was refused."""
    out = {clip.name for clip in held_out}
    seconds = sum(clip.seconds for clip in clips)
    lines = [f"{len(clips)} clips, {seconds:.0f} s; {sum(bool(clip.problems) for clip in clips)} of them flagged"]
    for clip in clips:
        lag = "?" if clip.measures.lag is None else f"{clip.measures.lag:+d}"
        problems = f"  {'; '.join(clip.problems)}" if clip.problems else ""
        hdr = f", HDR ({clip.facts['hdr']}) mapped to SDR" if clip.facts.get("hdr") else ""
        lines.append(
            f"{clip.name}  {clip.facts['video']} from {clip.facts['start']:.2f} s, {clip.seconds:.2f} s, face "
            f"{clip.measures.face_found:.0%}, lag {lag}{hdr}{', held out' if clip.name in out else ''}{problems}"
        )
    return lines + [f"refused  {each.video}: {each.why}" for each in refused]
