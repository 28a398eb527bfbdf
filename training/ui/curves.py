"""Plots of a run's numbers, from the lines of its log (`training.log.read_metrics`).

Figures are made without pyplot, which keeps every figure until it is told not to.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from training.loss import BRANCHES

Line = Mapping[str, Any]  # the numbers of a step, and the kind of the line
# of Okabe and Ito, told apart by everyone
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#8a8a8a"
PARTS = {"lip": RED, "face": BLUE, "background": GREY}
BRANCH_COLOURS = dict(zip(BRANCHES, (GREY, BLUE, RED), strict=True))
SMOOTH = 20  # steps of the running mean, or a quarter of those that there are
BUCKETS = ("0.00", "0.25", "0.50", "0.75")


def of_kind(lines: Sequence[Line], kind: str) -> list[Line]:
    """The lines of one kind: train, validation or base."""
    return [line for line in lines if line["kind"] == kind]


def progress_figure(lines: Sequence[Line]) -> Figure:
    """The loss, how held-out errors change against the base, and the gradient, over the steps."""
    figure = _figure(12.0, 3.4)
    loss, held_out, gradient = figure.subplots(1, 3)
    steps = of_kind(lines, "train")
    _course(loss, steps, "loss", BLUE)
    _titled(loss, "Loss", "step", "loss, all branches")
    _changes(held_out, lines)
    _course(gradient, steps, "gradient_norm", GREEN)
    gradient.set_yscale("log")
    _titled(gradient, "Gradient", "step", "norm before clipping")
    return figure


def branch_figure(lines: Sequence[Line]) -> Figure:
    """The error of the samples that took each branch, over the steps, and what it was early and late in the run."""
    figure = _figure(11.0, 3.6)
    over, means = figure.subplots(1, 2)
    steps = of_kind(lines, "train")
    names = [f"error_of_branch_{branch}" for branch in BRANCHES]
    for branch, name in zip(BRANCHES, names, strict=True):
        _course(over, steps, name, BRANCH_COLOURS[branch], branch)
    _titled(over, "Error by branch", "step", "error of the whole picture")
    _early_and_late(means, steps, dict(zip(BRANCHES, names, strict=True)))
    _titled(means, "Early and late in the run", "branch, and in how many steps it was drawn", "mean squared error")
    return figure


def sigma_figure(lines: Sequence[Line]) -> Figure:
    """The lips' error on held-out clips at each noise level, before and after; in training, by bucket of σ."""
    figure = _figure(11.0, 3.6)
    levels, buckets = figure.subplots(1, 2)
    base, last = (of_kind(lines, kind)[-1:] for kind in ("base", "validation"))
    for found, words, colour in ((base, "base", GREY), (last, "trained", RED)):
        for line in found:
            values = by_level(line, "lip")
            levels.plot(list(values), list(values.values()), "o-", color=colour, label=words)
    _titled(levels, "Held-out lips by noise level", "σ: 0 is the clean clip, 1 is noise", "mean squared error")
    named = {f"{name} to {float(name) + 0.25:.2f}": f"error_from_sigma_{name}" for name in BUCKETS}
    _early_and_late(buckets, of_kind(lines, "train"), named)
    _titled(buckets, "Training by bucket of σ", "σ, and in how many steps it was drawn", "mean squared error")
    return figure


def by_level(line: Line, part: str) -> dict[float, float]:
    """The error of a part of the picture at each noise level of a validation, by σ."""
    found = {name.partition("/")[2]: value for name, value in line.items() if name.startswith(f"{part}/")}
    return {float(level): value for level, value in sorted(found.items())}


def running_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """The mean of each value and those before it, `width` in all; fewer at the beginning."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    begins = np.maximum(0, ends - width)
    return (sums[ends] - sums[begins]) / (ends - begins)


def _changes(axes: Axes, lines: Sequence[Line]) -> None:
    base = of_kind(lines, "base")[-1:]
    found = of_kind(lines, "validation")
    for part, colour in PARTS.items():
        if base and part in base[0]:
            steps = [0.0, *(line["step"] for line in found)]
            change = [0.0, *(100 * (line[part] / base[0][part] - 1) for line in found)]
            axes.plot(steps, change, "o-", color=colour, label=part, markersize=4)
    axes.axhline(0, color="black", linewidth=0.8)
    _titled(axes, "Held-out error against the base", "step", "change, %")


def _course(axes: Axes, lines: Sequence[Line], name: str, colour: str, words: str | None = None) -> None:
    """A value over the steps: dots, and where there are enough of them their running mean, which `words` name."""
    known = [(line["step"], line[name]) for line in lines if name in line]
    if not known:
        return
    steps, values = np.array(known, dtype=np.float64).T
    width = min(SMOOTH, max(1, len(values) // 4))
    smooth = width > 1
    dots = None if words else "each step"
    axes.plot(steps, values, "o", color=colour, markersize=3, alpha=0.35 if smooth else 1, label=dots)
    mean = f"mean of {width} steps" if smooth else None
    axes.plot(steps, running_mean(values, width), color=colour, label=words or mean)


def _early_and_late(axes: Axes, lines: Sequence[Line], names: Mapping[str, str]) -> None:
    """Bars of the means of values in the first and in the second half of the lines."""
    middle = len(lines) // 2
    ticks = []
    for place, (words, name) in enumerate(names.items()):
        for half, aside, colour in ((lines[:middle], -0.2, GREY), (lines[middle:], 0.2, ORANGE)):
            values = [line[name] for line in half if name in line]
            if values:
                axes.bar(place + aside, float(np.mean(values)), 0.38, color=colour)
        ticks.append(f"{words}\n{sum(name in line for line in lines)}×")
    axes.set_xticks(range(len(names)), ticks)
    axes.bar([0], [0], color=GREY, label="first half")
    axes.bar([0], [0], color=ORANGE, label="second half")


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained")


def _titled(axes: Axes, title: str, across: str, upward: str) -> None:
    axes.set_title(title, fontsize=12)
    axes.set_xlabel(across)
    axes.set_ylabel(upward)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if across == "step":
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=9, frameon=False)
    else:
        axes.text(0.5, 0.5, "nothing yet", transform=axes.transAxes, ha="center", va="center", color=GREY)
