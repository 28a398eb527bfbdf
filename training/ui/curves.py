"""Plots of a run's numbers, from the lines of its log (`training.loop.run_log.read_metrics`)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from training.loop.loss import BRANCHES
from training.ui.plots import BLUE, GREEN, GREY, ORANGE, RED, Plot, count_across, line_at, new_axes, plain_numbers
from wanavatar_lab.ui.language import language, read_words

Line = Mapping[str, Any]  # the numbers of a step, and the kind of the line
PARTS = {"lip": RED, "face": BLUE, "background": GREY}
BRANCH_COLOURS = dict(zip(BRANCHES, (GREY, BLUE, RED), strict=True))
SMOOTH = 20  # steps of the running mean, or a quarter of those that there are
BUCKETS = ("0.00", "0.25", "0.50", "0.75")
HALVES = (("first half", GREY), ("second half", ORANGE))

# of the plots that a card shows; those of notebook 12 speak its language
WORDS = read_words(__file__, "curves")


def of_kind(lines: Sequence[Line], kind: str) -> list[Line]:
    """The lines of one kind: train, validation or base."""
    return [line for line in lines if line["kind"] == kind]


def progress_plots(lines: Sequence[Line]) -> list[Plot]:
    """The loss, how held-out errors change against the base, and the gradient, over the steps."""
    steps = of_kind(lines, "train")
    loss, gradient, held_out = new_axes(), new_axes(), new_axes()
    smooth = _course(loss, steps, "loss", BLUE)
    _course(gradient, steps, "gradient_norm", GREEN)
    gradient.set_yscale("log")
    plain_numbers(gradient)
    mean = _word("mean").format(width=smooth)
    drawn = [(_word(part), PARTS[part]) for part in _changes(held_out, lines)]
    return [
        _over_steps(loss, "loss", [(mean, BLUE)] if smooth > 1 else []),
        _over_steps(held_out, "held_out", drawn),
        _over_steps(gradient, "gradient", [(mean, GREEN)] if smooth > 1 else []),
    ]


def branch_plots(lines: Sequence[Line]) -> list[Plot]:
    """The error of the samples that took each branch, over the steps, and what it was early and late in the run."""
    steps = of_kind(lines, "train")
    names = {branch: f"error_of_branch_{branch}" for branch in BRANCHES}
    over, means = new_axes(), new_axes()
    for branch, name in names.items():
        _course(over, steps, name, BRANCH_COLOURS[branch])
    count_across(over)
    _early_and_late(means, steps, names)
    up = "mean squared error of the whole picture"
    return [
        Plot(over, "Error by branch", up, "step", [*BRANCH_COLOURS.items()]),
        Plot(means, "Early and late in the run", up, "branch, and in how many steps it was drawn", HALVES),
    ]


def sigma_plots(lines: Sequence[Line]) -> list[Plot]:
    """The lips' error on held-out clips at each noise level, before and after; in training, by bucket of σ."""
    levels, buckets = new_axes(), new_axes()
    base, last = (of_kind(lines, kind)[-1:] for kind in ("base", "validation"))
    shown = (("base", base, GREY), ("trained", last, RED))
    for _, found, colour in shown:
        for line in found:
            values = by_level(line, "lip")
            levels.plot(list(values), list(values.values()), "o-", color=colour)
    named = {f"{name}–{float(name) + 0.25:.2f}": f"error_from_sigma_{name}" for name in BUCKETS}
    _early_and_late(buckets, of_kind(lines, "train"), named)
    colours = [(words, colour) for words, found, colour in shown if found]
    level, drawn = "noise level σ: 0 is the clean clip, 1 is noise", "σ, and in how many steps it was drawn"
    return [
        Plot(levels, "Held-out lips by noise level", "mean squared error", level, colours),
        Plot(buckets, "Training by bucket of σ", "mean squared error of the whole picture", drawn, HALVES),
    ]


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


def _over_steps(axes: Axes, name: str, legend: Sequence[tuple[str, str]]) -> Plot:
    count_across(axes)
    return Plot(axes, _word(name), _word(f"{name}_up"), _word("step"), legend, _word("empty"))


def _word(name: str) -> str:
    return language.of(WORDS[name])


def _changes(axes: Axes, lines: Sequence[Line]) -> list[str]:
    """Draw how the errors of held-out clips change; gives the parts of the picture that are known."""
    base = of_kind(lines, "base")[-1:]
    found = of_kind(lines, "validation")
    known = [part for part in PARTS if base and found and part in base[0]]
    for part in known:
        steps = [0.0, *(line["step"] for line in found)]
        change = [0.0, *(100 * (line[part] / base[0][part] - 1) for line in found)]
        axes.plot(steps, change, "o-", color=PARTS[part], label=part, markersize=4)
    if known:
        line_at(axes, 0)
    return known


def _course(axes: Axes, lines: Sequence[Line], name: str, colour: str) -> int:
    """Draw a value over the steps: dots, and through them their running mean; gives the width of that."""
    known = [(line["step"], line[name]) for line in lines if name in line]
    if not known:
        return 0
    steps, values = np.array(known, dtype=np.float64).T
    width = min(SMOOTH, max(1, len(values) // 4))
    axes.plot(steps, values, "o", color=colour, markersize=3, alpha=0.35 if width > 1 else 1)
    axes.plot(steps, running_mean(values, width), color=colour, label=name)
    return width


def _early_and_late(axes: Axes, lines: Sequence[Line], names: Mapping[str, str]) -> None:
    """Draw bars of the means of values in the first and in the second half of the lines."""
    middle = len(lines) // 2
    ticks = []
    for place, (words, name) in enumerate(names.items()):
        halves = zip((lines[:middle], lines[middle:]), (-0.2, 0.2), HALVES, strict=True)
        for half, aside, (_, colour) in halves:
            values = [line[name] for line in half if name in line]
            if values:
                axes.bar(place + aside, float(np.mean(values)), 0.38, color=colour)
        ticks.append(f"{words}\n{sum(name in line for line in lines)}×")
    axes.set_xticks(range(len(names)), ticks)
