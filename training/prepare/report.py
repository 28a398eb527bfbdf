"""All clips in one table: what was measured of each, what is wrong, and which are held out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.prepare.duplicates import duplicates
from training.prepare.layout import FPS
from training.prepare.measures import Measures
from wanavatar_lab.errors import LabError

# A clip whose face is less sharp than this share of the median clip's is flagged.
BLURRED = 0.25


@dataclass(frozen=True)
class Refused:
    """A video, or a part of it, that gave no clip, and why in words."""

    video: str
    why: str


@dataclass(frozen=True)
class Prepared:
    """A clip of the report.

    Attributes:
        name: of its folder.
        path: its folder.
        facts: what `clip.json` says.
        measures: what was found.
        problems: what is wrong with it, by itself and among the others.
    """

    name: str
    path: Path
    facts: Mapping[str, Any]
    measures: Measures
    problems: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """How long it is."""
        return int(self.facts["frames"]) / FPS


def prepared(folders: Mapping[str, tuple[Path, Mapping[str, Any]]]) -> list[Prepared]:
    """Judge the clips, given as (folder, facts) by name, each by itself and among the others."""
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


def chosen_to_hold_out(clips: Sequence[Prepared], count: int) -> list[Prepared]:
    """The last `count` clips with nothing wrong, in order; where these are too few, the last of the others too.

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


def as_json(
    clips: Sequence[Prepared], held_out: Sequence[Prepared], refused: Sequence[Refused], options: Mapping[str, Any]
) -> dict[str, Any]:
    """The report, as JSON takes it."""
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


def lines(clips: Sequence[Prepared], held_out: Sequence[Prepared], refused: Sequence[Refused]) -> list[str]:
    """The report, as people read it."""
    out = {clip.name for clip in held_out}
    seconds = sum(clip.seconds for clip in clips)
    said = [f"{len(clips)} clips, {seconds:.0f} s; {sum(bool(clip.problems) for clip in clips)} of them flagged"]
    for clip in clips:
        lag = "?" if clip.measures.lag is None else f"{clip.measures.lag:+d}"
        wrong = f"  {'; '.join(clip.problems)}" if clip.problems else ""
        said.append(
            f"{clip.name}  {clip.facts['video']} from {clip.facts['start']:.2f} s, {clip.seconds:.2f} s, face "
            f"{clip.measures.face_found:.0%}, lag {lag}{', held out' if clip.name in out else ''}{wrong}"
        )
    said += [f"refused  {each.video}: {each.why}" for each in refused]
    return said
