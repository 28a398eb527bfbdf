"""All clips of a preparation together: duplicates, blur, which are held out or left out, and the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from training.prepare.clip_folder import FPS
from training.prepare.measures import Measures, out_of_sync
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
        twins: names of the clips that show and say the same.
    """

    name: str
    path: Path
    facts: Mapping[str, Any]
    measures: Measures
    problems: tuple[str, ...]
    twins: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Its length."""
        return int(self.facts["frames"]) / FPS


def assess(folders: Mapping[str, tuple[Path, Mapping[str, Any]]]) -> list[Prepared]:
    """The clips, given as (folder, facts) by name, with the problems of each by itself and among the others."""
    measures = {name: Measures(**facts["measures"]) for name, (_, facts) in folders.items()}
    twins = duplicates({name: (facts, measures[name]) for name, (_, facts) in folders.items()})
    usual = float(np.median([each.sharpness for each in measures.values()])) if measures else 0.0
    clips, order = [], list(folders)
    for name, (path, facts) in folders.items():
        found = measures[name]
        problems = list(found.problems)
        first = min([name, *twins[name]], key=order.index)
        if first != name:
            problems.append(f"shows and says the same as {first}")
        if found.sharpness < BLURRED * usual:
            problems.append(f"blurred: its sharpness is {found.sharpness:.0f} and that of most {usual:.0f}")
        clips.append(Prepared(name, path, facts, found, tuple(problems), tuple(twins[name])))
    return clips


def duplicates(clips: Mapping[str, tuple[Mapping[str, Any], Measures]]) -> dict[str, list[str]]:
    """The names of the clips that are the same as each, as when a video is there twice, cut or encoded differently.

    Those of the same passage of the same file are, under any name. Of others both pictures and sound are compared,
    since one person in front of one wall looks alike in every clip.

    Args:
        clips: contents of `clip.json`, and the measures in it, by name.
    """
    found: dict[str, list[str]] = {name: [] for name in clips}
    for (first, (facts, one)), (second, (others, other)) in combinations(clips.items(), 2):
        if same_passage(facts, others) or (looks_alike(one, other) and sounds_alike(one, other)):
            found[first].append(second)
            found[second].append(first)
    return found


def same_passage(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two clips share frames of files with the same contents."""
    ends = [clip["start"] + clip["frames"] / FPS for clip in (one, other)]
    return one["source"] == other["source"] and max(one["start"], other["start"]) < min(ends)


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


def divide(
    clips: Sequence[Prepared], hold_out: int, *, keep_out_of_sync: bool = False
) -> tuple[list[Prepared], dict[str, str]]:
    """Which clips are held out, in order, and which are left out of training, by name with the reason.

    Held out are the last clips without problems, and if these are too few, the last of the others. Left out are clips
    out of sync, unless they are kept, those without a face if others have one, and those that are the same as one that
    is held out.

    Raises:
        LabError: nothing would be left to train on.
    """
    left_out: dict[str, str] = {}
    if not keep_out_of_sync:
        left_out |= {clip.name: why for clip in clips if (why := out_of_sync(clip.measures))}
    unsynced = dict(left_out)
    if any(clip.measures.face_found for clip in clips):  # else there are no landmarks
        left_out |= {clip.name: "no face was found" for clip in clips if not clip.measures.face_found}
    usable = [clip for clip in clips if clip.name not in left_out]
    by_worth = sorted(range(len(usable)), key=lambda i: (bool(usable[i].problems), -i))
    held_out = [usable[i] for i in sorted(by_worth[:hold_out])]
    for clip in held_out:
        left_out |= dict.fromkeys(clip.twins, f"it is the same as {clip.name}, which is held out")
    names = {clip.name for clip in held_out}
    # of two clips that are the same and both held out, both stay
    left_out = {name: why for name, why in left_out.items() if name not in names}
    if not any(clip.name not in names and clip.name not in left_out for clip in clips):
        raise LabError(_nothing_left(len(clips), hold_out, left_out, unsynced))
    return held_out, left_out


def _nothing_left(count: int, hold_out: int, left_out: Mapping[str, str], unsynced: Mapping[str, str]) -> str:
    parts = [f"There {'is' if count == 1 else 'are'} {count} clip{'s' * (count != 1)} and {hold_out} to be held out"]
    remedies = ["give more video", *(["hold out fewer (`--hold-out 0` is none)"] if hold_out else [])]
    if left_out:
        parts.append("left out are " + "; ".join(f"{name} ({why})" for name, why in left_out.items()))
    if unsynced:
        late = any(why.startswith("out of sync") for why in unsynced.values())
        aligned = ["`--align` to shift their sound by the measured lag"] * late
        remedies = [*aligned, "`--keep-out-of-sync` to use them", *remedies]
    return f"{', '.join(parts)}, which leaves none to train on. What helps: {', or '.join(remedies)}."


def report_json(
    clips: Sequence[Prepared],
    held_out: Sequence[Prepared],
    left_out: Mapping[str, str],
    refused: Sequence[Refused],
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """The report as JSON takes it."""
    out = {clip.name for clip in held_out}
    found = [clip.measures.face_found for clip in clips]
    return {
        "clips": [
            {
                "name": clip.name,
                **{
                    key: value
                    for key, value in clip.facts.items()
                    if key not in ("measures", "hash", "source", "people")
                },
                "seconds": clip.seconds,
                "held_out": clip.name in out,
                "left_out": left_out.get(clip.name),
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


def report_lines(
    clips: Sequence[Prepared],
    held_out: Sequence[Prepared],
    left_out: Mapping[str, str],
    refused: Sequence[Refused],
) -> list[str]:
    """The report for people: a summary, a line per clip, and what was refused."""
    out = {clip.name for clip in held_out}
    seconds = sum(clip.seconds for clip in clips)
    flagged = sum(bool(clip.problems) for clip in clips)
    lines = [
        f"{len(clips)} clip{'s' * (len(clips) != 1)}, {seconds:.0f} s; {flagged} of them flagged",
        f"{len(clips) - len(held_out) - len(left_out)} to train on, {len(held_out)} held out, {len(left_out)} left out",
    ]
    for clip in clips:
        lag = "?" if clip.measures.lag is None else f"{clip.measures.lag:+d}"
        said = [*clip.facts["notes"], *clip.problems]
        hdr = f", HDR ({clip.facts['hdr']}) mapped to SDR" if clip.facts.get("hdr") else ""
        why = f", left out: {left_out[clip.name]}" if clip.name in left_out else ""
        lines.append(
            f"{clip.name}  {clip.facts['video']} from {clip.facts['start']:.2f} s, {clip.seconds:.2f} s, face "
            f"{clip.measures.face_found:.0%}, lag {lag}{hdr}{', held out' if clip.name in out else why}"
            + ("  " + "; ".join(said) if said else "")
        )
    return lines + [f"refused  {each.video}: {each.why}" for each in refused]
