"""Plots of a run's numbers, from the lines of its log (`training.loop.run_folder.read_metrics`)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.plots import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    RED,
    SKY,
    Plot,
    count_across,
    line_at,
    new_axes,
    plain_numbers,
)

Line = Mapping[str, Any]  # one logged event: its kind, its step and named numbers
PARTS = {"lip": RED, "face": BLUE, "background": GREY}
SERIES = (BLUE, ORANGE, GREEN, RED, PINK, SKY, GREY)  # of runs over each other
BRANCH_COLOURS = {"full": GREY, "face": BLUE, "lip": RED}  # of training.config.training_config.BRANCHES
SMOOTH = 20  # steps of the moving average, or a quarter of those logged: fewer would leave the noise of single draws
BUCKETS = ("0.00", "0.25", "0.50", "0.75")  # lower bounds of σ, as `training.loop.step_metrics` logs them
HALVES = (("first half", GREY), ("second half", ORANGE))

# of the plots that a card shows; those of notebook 12 are in English like its text
WORDS = read_words(__file__, "curves")


def of_kind(lines: Sequence[Line], kind: str) -> list[Line]:
    """The lines of one kind: train, validation or base."""
    return [line for line in lines if line["kind"] == kind]


def changes(line: Line, base: Line) -> dict[str, float]:
    """Relative change of a validation's errors against the base model's, by part of the picture; -0.2 is 20 % less."""
    return {part: line[part] / base[part] - 1 for part in PARTS if part in line and part in base}


def progress_plots(lines: Sequence[Line]) -> list[Plot]:
    """The loss, the change of held-out errors against the base model, and the norm of the gradient, over the steps."""
    steps = of_kind(lines, "train")
    loss, gradient, held_out = new_axes(), new_axes(), new_axes()
    smooth = _curve(loss, steps, "loss", BLUE)
    _curve(gradient, steps, "gradient_norm", GREEN)
    gradient.set_yscale("log")
    plain_numbers(gradient)
    found = of_kind(lines, "validation")
    parts: list[str] = []
    for base in of_kind(lines, "base")[-1:] if found else []:
        parts = [*changes(found[0], base)]
        for part in parts:
            change = [0.0, *(100 * changes(line, base)[part] for line in found)]
            held_out.plot(
                [0.0, *(line["step"] for line in found)], change, "o-", color=PARTS[part], label=part, markersize=4
            )
        line_at(held_out, 0)
    mean = _word("mean").format(width=smooth)
    return [
        _over_steps(loss, "loss", [(mean, BLUE)] if smooth > 1 else []),
        _over_steps(held_out, "held_out", [(_word(part), PARTS[part]) for part in parts]),
        _over_steps(gradient, "gradient", [(mean, GREEN)] if smooth > 1 else []),
    ]


def overlay_plots(runs: Mapping[str, Sequence[Line]]) -> list[Plot]:
    """Several runs over each other, by name: their loss, and the change of the held-out error of the lips."""
    loss, held_out, legend = new_axes(), new_axes(), []
    for place, (name, lines) in enumerate(runs.items()):
        colour = SERIES[place % len(SERIES)]
        legend.append((name, colour))
        _curve(loss, of_kind(lines, "train"), "loss", colour, dots=False)
        found = of_kind(lines, "validation")
        for base in of_kind(lines, "base")[-1:]:
            points = [(0, 0.0), *((line["step"], 100 * changes(line, base).get("lip", np.nan)) for line in found)]
            if len(points) > 1:
                held_out.plot(*zip(*points, strict=True), "o-", color=colour, label=name, markersize=4)
    for axes in (loss, held_out):
        count_across(axes)
    if held_out.has_data():
        line_at(held_out, 0)
    return [
        Plot(held_out, "Held-out error of the lips", "change against the base model, %", "step", legend),
        Plot(loss, "Loss", f"moving average of {SMOOTH} steps, or of a quarter of them", "step", legend),
    ]


def noise_plot(shift: float) -> Plot:
    """How often a training draws each noise level: uniform ones, shifted towards more noise, in quarters of σ."""
    axes = new_axes()
    sigma = np.linspace(0, 1, 201)
    # of u, which is uniform, when σ = shift·u / (1 + (shift - 1)·u)
    density = shift / (shift - (shift - 1) * sigma) ** 2
    axes.plot(sigma, density, color=BLUE, label="density")
    axes.fill_between(sigma, density, color=BLUE, alpha=0.12, linewidth=0)
    low = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    drawn = np.diff(low / (shift - (shift - 1) * low))
    middle = (low[1:] + low[:-1]) / 2
    axes.set_xticks(middle, [f"{a:g}–{b:g}\n{share:.0%}" for a, b, share in zip(low, low[1:], drawn, strict=False)])
    for border in low:
        axes.axvline(border, color=GREY, linewidth=0.6, alpha=0.5)
    axes.set_ylim(bottom=0)
    return Plot(axes, "Noise levels that are drawn", f"density; flow_shift {shift:g}", "σ, and share of the samples")


def branch_plots(lines: Sequence[Line]) -> list[Plot]:
    """The loss of the samples of each branch, over the steps, and its means early and late in the run.

    Runs of earlier releases have only the error of the whole picture by branch, which is drawn for them.
    """
    steps = of_kind(lines, "train")
    names = {branch: f"loss_of_branch_{branch}" for branch in BRANCH_COLOURS}
    title, up = "Loss by branch", "with the weights of face and lips"
    if steps and not any(name in line for line in steps for name in names.values()):
        names = {branch: f"error_of_branch_{branch}" for branch in BRANCH_COLOURS}
        title, up = "Error by branch", "mean squared error of the whole picture"
    over, means = new_axes(), new_axes()
    for branch, name in names.items():
        _curve(over, steps, name, BRANCH_COLOURS[branch])
    count_across(over)
    _early_and_late(means, steps, names)
    return [
        Plot(over, title, up, "step", [*BRANCH_COLOURS.items()]),
        Plot(means, "Early and late in the run", up, "branch, and number of steps that drew it", HALVES),
    ]


def sigma_plots(lines: Sequence[Line]) -> list[Plot]:
    """The lips' error on held-out clips at each noise level, before and after; in training, by bucket of σ."""
    levels, buckets = new_axes(), new_axes()
    legend = []
    for words, kind, colour in (("base", "base", GREY), ("trained", "validation", RED)):
        for line in of_kind(lines, kind)[-1:]:
            values = by_level(line, "lip")
            levels.plot(list(values), list(values.values()), "o-", color=colour)
            legend.append((words, colour))
    named = {f"{name}–{float(name) + 0.25:.2f}": f"error_from_sigma_{name}" for name in BUCKETS}
    _early_and_late(buckets, of_kind(lines, "train"), named)
    level, drawn = "noise level σ: 0 is the clean clip, 1 is noise", "σ, and number of steps that drew it"
    return [
        Plot(levels, "Held-out lips by noise level", "mean squared error", level, legend),
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


def _word(name: str) -> str:
    return language.of(WORDS[name])


def _over_steps(axes: Axes, name: str, legend: Sequence[tuple[str, str]]) -> Plot:
    count_across(axes)
    return Plot(axes, _word(name), _word(f"{name}_up"), _word("step"), legend, _word("empty"))


def _curve(axes: Axes, lines: Sequence[Line], name: str, colour: str, *, dots: bool = True) -> int:
    """Draw a value over the steps, as dots and their moving average; returns the width of the average."""
    known = [(line["step"], line[name]) for line in lines if name in line]
    if not known:
        return 0
    steps, values = np.array(known, dtype=np.float64).T
    width = min(SMOOTH, max(1, len(values) // 4))
    if dots:
        axes.plot(steps, values, "o", color=colour, markersize=3, alpha=0.35 if width > 1 else 1)
    axes.plot(steps, running_mean(values, width), color=colour, label=name)
    return width


def _early_and_late(axes: Axes, lines: Sequence[Line], names: Mapping[str, str]) -> None:
    """Draw bars of the means of named values in the first and in the second half of the lines."""
    middle = len(lines) // 2
    ticks = []
    for place, (words, name) in enumerate(names.items()):
        for half, aside, (_, colour) in zip((lines[:middle], lines[middle:]), (-0.2, 0.2), HALVES, strict=True):
            values = [line[name] for line in half if name in line]
            if values:
                axes.bar(place + aside, float(np.mean(values)), 0.38, color=colour)
        ticks.append(f"{words}\n{sum(name in line for line in lines)}×")
    axes.set_xticks(range(len(names)), ticks)
