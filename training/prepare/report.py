"""All clips in one table: what was measured of each, what is wrong, and which are held out.

Clips that show and say the same, as when a video lies in the folder twice, cut or encoded differently.

Neither alone tells: one person before one wall looks alike in every clip. So pictures are compared by perceptual hashes
and sounds by how their loudness goes up and down.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.prepare.clip_folder import FPS
from training.prepare.measures import Measures
from wanavatar_lab.errors import LabError

# Of 64 bits, how many may differ between the nearest frames of two clips.
ALIKE = 10
# Correlation of the loudness at the best of the lags up to REACH, over what both have.
SAME_SOUND, REACH = 0.95, FPS
LEAST = 2 * FPS  # frames that are compared


def duplicates(clips: Mapping[str, Measures]) -> dict[str, str]:
    """Of every clip that is a duplicate, the name of the first one that it is a duplicate of."""
    found: dict[str, str] = {}
    for (first, one), (second, other) in combinations(clips.items(), 2):
        if first not in found and second not in found and looks_alike(one, other) and sounds_alike(one, other):
            found[second] = first
    return found


def looks_alike(one: Measures, other: Measures) -> bool:
    """Whether some frame of one clip is like some frame of the other."""
    return any(
        (int(first, 16) ^ int(second, 16)).bit_count() <= ALIKE for first in one.hashes for second in other.hashes
    )


def sounds_alike(one: Measures, other: Measures) -> bool:
    """Whether the loudness of both goes up and down at the same times, up to a shift."""
    a, b = np.array(one.level), np.array(other.level)
    return any(_correlation(a, b, lag) >= SAME_SOUND for lag in range(-REACH, REACH + 1))


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64], lag: int) -> float:
    a, b = a[max(0, lag) :], b[max(0, -lag) :]
    both = min(len(a), len(b))
    a, b = a[:both], b[:both]
    if both < LEAST or a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


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
