"""Figures of one talking clip, their summary over many, and the required limits."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.pocket.judge.reading import Reader
from training.pocket.speech.clips import SAMPLES_PER_FRAME
from training.pocket.talking.sources import Talking
from training.pocket.talking.spoken import Spoken
from training.pocket.world.pose import MOUTH
from wanavatar_lab import metrics

REACH = 8  # maximum lag in frames that is tested
GONE = 100.0  # colour difference of a region that a clip no longer shows: the largest possible
Figures = dict[str, Any]


def clip_figures(talking: Talking, spoken: Spoken, other: NDArray[np.float32], reader: Reader) -> Figures:
    """Measure one clip from its frames.

    Args:
        spoken: the speech that the clip should show.
        other: the clean sound of another clip.

    Returns:
        For the lips `r`, `lag`, `r_visemes`, `r_other`, `silence` (see `metrics.LipSync`) and `r_heard`, against the
        sound with its noise; for the person, CIEDE2000 to the reference by segment and region (`GONE` if the region
        has disappeared); for segment borders, the frame difference as a multiple of the median one; and that median.
    """
    frames, first = talking.frames, talking.start_frame
    opening = reader.opening(frames)
    window = slice(first, first + len(frames))
    said, heard, another = (sound[first * SAMPLES_PER_FRAME :] for sound in (spoken.clean, spoken.sound, other))
    sync = metrics.lip_sync(
        opening,
        said,
        truth=spoken.mouth[window, MOUTH.index("open")],
        other=another,
        reach=REACH,
    )
    borders = metrics.segment_borders(len(frames), first=80 - first)
    person = metrics.likeness(talking.reference, frames, reader, borders)
    found: Figures = {
        "name": spoken.name,
        "voice": spoken.voice,
        "frames": len(frames),
        "r": sync.r,
        "lag": sync.lag,
        "r_visemes": sync.r_truth,
        "r_other": sync.r_other,
        "r_heard": metrics.correlation(opening, metrics.loudness(heard, frames=len(frames))),
        "silence": sync.silence,
        "person": [{name: min(value, GONE) for name, value in segment.items()} for segment in person.segments],
        "movement": float(np.median(metrics.frame_differences(frames))),
    }
    if borders:
        jumps = metrics.border_jumps(frames, borders)
        found["borders"] = [change / jumps.median for change in jumps.at_borders]
    return found


def silence_figures(talking: Talking, reader: Reader) -> Figures:
    """Opening of the mouth during silence: mean and 95th percentile."""
    opening = reader.opening(talking.frames)
    return {"mean": float(opening.mean()), "most": float(np.quantile(opening, 0.95))}


def summary(conditions: Mapping[str, Sequence[Figures]], long: Sequence[Figures], silent: Sequence[Figures]) -> Figures:
    """Summarise the figures of many clips.

    Args:
        conditions: `clip_figures` of short clips by condition.
        long: `clip_figures` of clips of six segments or more.
        silent: `silence_figures`.
    """
    every = [clip for clips in conditions.values() for clip in clips] + list(long)
    return {
        "lips": {name: _lips(clips) for name, clips in conditions.items()},
        "silent_clips": {name: max(clip[name] for clip in silent) for name in ("mean", "most")} if silent else None,
        "person": _person(every),
        "drift": _drift(long) if long else None,
        "borders": _borders([clip["borders"] for clip in every if "borders" in clip]),
        "movement": _rounded(np.median([clip["movement"] for clip in every])),
    }


def _lips(clips: Sequence[Figures]) -> Figures:
    lags = np.array([clip["lag"] for clip in clips])
    pauses = [clip["silence"] for clip in clips if clip["silence"] is not None]
    return {
        "clips": len(clips),
        **{
            name: _rounded(np.median([clip[name] for clip in clips]))
            for name in ("r", "r_visemes", "r_other", "r_heard")
        },
        "r_lowest": _rounded(min(clip["r"] for clip in clips)),
        "lag": float(np.median(lags)),
        "lag_within_one": _rounded(np.mean(np.abs(lags) <= 1)),
        "silence": _rounded(np.median(pauses)) if pauses else None,
    }


def _person(clips: Sequence[Figures]) -> Figures:
    """By region, CIEDE2000 of each clip's worst segment: median, 95th percentile and maximum over clips."""
    worst: dict[str, list[float]] = {}
    for clip in clips:
        for name in clip["person"][0]:
            worst.setdefault(name, []).append(max(segment[name] for segment in clip["person"]))
    return {
        name: {
            "median": _rounded(np.median(values)),
            "most": _rounded(np.quantile(values, 0.95, method="higher")),
            "worst": _rounded(max(values)),
            "clips": len(values),
        }
        for name, values in worst.items()
    }


def _drift(clips: Sequence[Figures]) -> Figures:
    """By region, the largest increase in CIEDE2000 to the reference from the first to the sixth segment."""
    found: dict[str, list[float]] = {}
    for clip in clips:
        segments = clip["person"]
        for name in segments[0]:
            found.setdefault(name, []).append(segments[min(5, len(segments) - 1)][name] - segments[0][name])
    return {name: _rounded(max(values)) for name, values in found.items()}


def _borders(jumps: Sequence[Sequence[float]]) -> Figures | None:
    """Frame differences at segment borders, as multiples of the clip's median."""
    if not jumps:
        return None
    every = [jump for clip in jumps for jump in clip]
    return {
        "borders": len(every),
        "median": _rounded(np.median(every)),
        "largest_of_median_clip": _rounded(np.median([max(clip) for clip in jumps])),
        "largest": _rounded(max(every)),
    }


def verdict(found: Figures) -> list[Figures]:
    """Compare the figures with the limits of issue 3: "what", "figure", "limit" and whether it is "met"."""
    asked: list[tuple[str, float | None, str, float]] = []
    for condition, lips in found["lips"].items():
        asked += [
            (f"{condition}: opening against loudness, r", lips["r"], "at least", 0.7),
            (f"{condition}: lag, frames", abs(lips["lag"]), "at most", 1),
            (f"{condition}: opening against true visemes, r", lips["r_visemes"], "at least", 0.8),
            (f"{condition}: opening against another clip's loudness, r", lips["r_other"], "at most", 0.2),
            (f"{condition}: opening in pauses", lips["silence"], "at most", 0.1),
        ]
    if found["silent_clips"] is not None:
        asked.append(("silence: opening in 19 of 20 frames", found["silent_clips"]["most"], "at most", 0.15))
    for region, colour in found["person"].items():
        asked.append(
            (f"{region}: CIEDE2000 to the picture, worst segment of 19 of 20 clips", colour["most"], "at most", 10)
        )
    for region, drift in (found["drift"] or {}).items():
        asked.append((f"{region}: CIEDE2000 further in the sixth segment than in the first", drift, "at most", 2))
    if found["borders"] is not None:
        asked.append(("borders: change as a multiple of the median change", found["borders"]["median"], "at most", 1.5))
    holds: dict[str, Callable[[float, float], bool]] = {"at least": float.__ge__, "at most": float.__le__}
    return [
        {"what": what, "figure": figure, "limit": f"{which} {limit}", "met": holds[which](float(figure), float(limit))}
        for what, figure, which, limit in asked
        if figure is not None
    ]


def _rounded(value: Any) -> float:
    return round(float(value), 3)
