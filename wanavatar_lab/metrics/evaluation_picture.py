"""The picture of an evaluation: the mouth against the loudness over the seconds, and the numbers beside it."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from wanavatar_lab.media.pictures import write_bytes_of_picture
from wanavatar_lab.metrics.evaluate import MEASURES, Evaluation, evaluate

__all__ = ["draw", "lip_curves"]

# from the palette of Okabe and Ito, distinct to the colour-blind
BLUE, ORANGE, RED, GREY = "#0072b2", "#e69f00", "#d55e00", "#8a8a8a"
INK, PALE, PAPER = "#1f2328", "#e4e7eb", "#ffffff"
SHADES = (BLUE, RED)  # of a clip and of the other one
# of many clips
SHOWN_OF_MANY = ("lip_r", "lip_lag_ms", "lip_silence", "face_outline", "flicker_luminance", "border_jump")


def draw(found: Sequence[tuple[Evaluation, Evaluation | None]], path: Path | str) -> None:
    """Draw one clip, two clips side by side, or the measures of many, as a picture file.

    Raises:
        MediaError: the folder is missing or cannot be written to.
        DiskFull: there is no room; nothing is left behind.
    """
    figure, memory = _of_pair(*found[0]) if len(found) == 1 else _of_many(found), io.BytesIO()
    figure.savefig(memory, format=Path(path).suffix[1:].lower(), dpi=130, facecolor=PAPER)
    write_bytes_of_picture(Path(path), memory.getvalue())


class _Picture(Figure):
    """A figure that a notebook shows without pyplot, which would show it twice."""

    def _repr_png_(self) -> bytes:
        memory = io.BytesIO()
        self.savefig(memory, format="png", dpi=130, facecolor=PAPER)
        return memory.getvalue()


def lip_curves(clip: os.PathLike[str] | str | Evaluation, *, faces: str = "auto") -> Figure:
    """The opening of the mouth against the loudness, over the seconds of a clip; shown where a cell ends in it.

    Args:
        clip: a video with sound, an artifact, or what `evaluate` found of one.
        faces: see `face_readers.reader_for`.

    Returns:
        One axes: the loudness as an area, the opening as a line, each as a share of its largest value. The title has
        Pearson's r of both, and by how much the lips are late or early where r is highest.

    Raises:
        MediaError, WeightsError, LabError: as `evaluate`.
    """
    found = clip if isinstance(clip, Evaluation) else evaluate(clip, faces=faces)
    figure = _Picture(figsize=(9, 3.4), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))
    axes = figure.add_subplot()
    _lips_of(axes, found, BLUE, found.seconds)
    measures = found.measures()
    said, late = f"r {shown('lip_r', measures['lip_r'])}", measures["lip_lag_ms"]
    if late is not None:
        said += f", lips {abs(late):.0f} ms {'late' if late > 0 else 'early'}" if late else ", lips in time"
    axes.set_title(said, loc="right", color=INK, fontsize=10, pad=36)
    return figure


def shown(name: str, value: float | None) -> str:
    """A measure with its unit, as in the table."""
    if value is None:
        return "–"
    measure = MEASURES[name]
    text = f"{value:+.{measure.digits}f}" if name == "lip_lag_ms" and value else f"{value:.{measure.digits}f}"
    return f"{text.replace('-', '−')} {measure.unit}".rstrip()


def better_of(name: str, first: float | None, other: float | None) -> int | None:
    """Which of two values of a measure is better, 0 or 1; None if they look alike, or one is not known."""
    if first is None or other is None or shown(name, first) == shown(name, other):
        return None
    how = MEASURES[name].better
    keys = {"higher": lambda value: -value, "lower": lambda value: value, "nearer to 0": abs}
    return int(keys[how](other) < keys[how](first))


def _of_pair(first: Evaluation, other: Evaluation | None) -> Figure:
    clips = [first] if other is None else [first, other]
    figure = Figure(
        figsize=(12.5, 4.6 if other is None else 6.2), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1)
    )
    grid = figure.add_gridspec(len(clips), 2, width_ratios=[1.5, 1])
    longest = max(clip.seconds for clip in clips)
    for row, (clip, colour) in enumerate(zip(clips, SHADES, strict=False)):
        _lips_of(figure.add_subplot(grid[row, 0]), clip, colour, longest)
    _table(figure.add_subplot(grid[:, 1]), clips)
    return figure


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=INK, labelsize=9)
    axes.set_axisbelow(True)
    axes.grid(color=PALE)


def _lips_of(axes: Axes, clip: Evaluation, colour: str, longest: float) -> None:
    _plain(axes)
    at = (np.arange(clip.frames) + 0.5) / clip.fps
    level, mouth = np.array(clip.level), np.array([np.nan if each is None else each for each in clip.opening])
    tops: list[tuple[str, Any]] = []
    if level.any():
        tops.append(("loudness", axes.fill_between(at, level / level.max(), color=ORANGE, alpha=0.35, linewidth=0)))
    if np.isfinite(mouth).any():
        span = float(np.nanmax(mouth)) or 1.0
        tops.append(("mouth opening", axes.plot(at, mouth / span, color=colour, linewidth=1.5)[0]))
    else:
        middle: dict[str, Any] = {"ha": "center", "va": "center", "transform": axes.transAxes}
        axes.text(0.5, 0.5, "The opening of the mouth was not measured", color=GREY, **middle)
    for (name, alpha), spans, shade in ((("frozen", 0.2), clip.frozen, GREY), (("black", 0.7), clip.black, INK)):
        for start, end in spans:
            patch = axes.axvspan(start / clip.fps, end / clip.fps, color=shade, alpha=alpha, linewidth=0)
        if spans:
            tops.append((f"{name} frames", patch))
    for border in clip.borders.frames:
        line = axes.axvline(border / clip.fps, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    if clip.borders.frames:
        tops.append(("segment border", line))
    axes.set_xlim(0, longest)
    axes.set_ylim(0, 1.05)
    axes.set_yticks([0, 0.5, 1], ["0", "50", "100"])
    axes.set_ylabel("% of the largest", color=INK, fontsize=9)
    axes.set_xlabel("seconds", color=INK, fontsize=9)
    axes.set_title(Path(clip.clip).name, loc="left", color=INK, fontsize=12, fontweight="bold", pad=36)
    says = f"{clip.width}×{clip.height}, {clip.seconds:.1f} s at {clip.fps:g} frames per second"
    axes.annotate(says, (0, 1), (0, 20), xycoords="axes fraction", textcoords="offset points", color=GREY, fontsize=9)
    if tops:
        names, handles = zip(*tops, strict=True)
        axes.legend(
            handles, names, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=5, fontsize=9, frameon=False, borderpad=0,
            handlelength=1.4, columnspacing=1.4, borderaxespad=0.2, labelcolor=INK,
        )  # fmt: skip


def _table(axes: Axes, clips: Sequence[Evaluation]) -> None:
    axes.set_axis_off()
    rows = [clip.measures() for clip in clips]
    high = 1 / (len(MEASURES) + 1)
    columns = [1.0] if len(clips) == 1 else [0.78, 1.0]
    if len(clips) > 1:
        for clip, x, colour in zip(clips, columns, SHADES, strict=True):
            name = Path(clip.clip).stem
            name = name if len(name) < 13 else f"{name[:11]}…"
            axes.text(x, 1 - high / 2, name, ha="right", va="center", fontsize=9.5, color=colour, fontweight="bold")
    for place, (name, measure) in enumerate(MEASURES.items(), 1):
        y = 1 - (place + 0.5) * high
        axes.axhline(y + high / 2, color=PALE, linewidth=0.8)
        unit = f", {measure.unit}" if measure.unit and len(clips) > 1 else ""
        axes.text(0, y, measure.label + unit, va="center", fontsize=9.5, color=INK)
        values = [row[name] for row in rows]
        best = better_of(name, values[0], values[1]) if len(values) > 1 else None
        for i, (x, value) in enumerate(zip(columns, values, strict=True)):
            text = shown(name, value)
            text = text.removesuffix(measure.unit).rstrip() if len(clips) > 1 else text
            weight = "bold" if best == i or len(clips) == 1 else "normal"
            axes.text(x, y, text, ha="right", va="center", fontsize=9.5, color=INK, fontweight=weight)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)


def _of_many(found: Sequence[tuple[Evaluation, Evaluation | None]]) -> Figure:
    figure = Figure(figsize=(12.5, 6.8), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12))
    places = np.arange(len(found))
    names = [Path(first.clip).stem for first, _ in found]
    series: list[Any] = []
    for number, name in enumerate(SHOWN_OF_MANY):
        axes = figure.add_subplot(2, 3, number + 1)
        _plain(axes)
        measure = MEASURES[name]
        values = [[np.nan if (v := e.measures()[name]) is None else v for e in pair if e] for pair in found]
        if len(values[0]) > 1:
            for place, (before, after) in zip(places, values, strict=True):
                axes.plot([place, place], [before, after], color=PALE, linewidth=3, zorder=1)
        series = [
            axes.plot(places, [each[i] for each in values], "o", color=SHADES[i], markersize=6)[0]
            for i in range(len(values[0]))
        ]
        if name == "lip_lag_ms":
            axes.axhline(0, color=GREY, linewidth=1)
        axes.set_title(measure.label, loc="left", fontsize=10.5, color=INK, fontweight="bold")
        axes.set_ylabel(measure.unit, fontsize=9, color=INK)
        if len(found) <= 12:
            turned = max(map(len, names)) * len(names) > 40
            axes.set_xticks(places, names, rotation=35 if turned else 0, ha="right" if turned else "center", fontsize=8)
        else:
            axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
            axes.set_xlabel("clip, by its place in the list", fontsize=9)
    if len(series) > 1:
        folders = [str(Path(each.clip).parent) for each in found[0] if each]
        names = [Path(folder).name for folder in folders] if folders[0] != folders[1] else ["first", "other"]
        figure.legend(series, names, loc="outside upper right", ncols=2, frameon=False, fontsize=10)
    return figure


def __dir__() -> list[str]:
    return __all__
