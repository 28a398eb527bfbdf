"""Plots as HTML: in the page's own colours, dark or light, and as many in a row as fit.

The SVG of a plot has numbers only. Its words are text of the page around it, so that they can be in any language and
keep their size when the window shrinks.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

# from the palette of Okabe and Ito: distinct to the colour-blind, and visible on white and on black
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#8a8a8a"
PINK, SKY = "#cc79a7", "#56b4e9"
_INK = "#7f7f80"  # placeholder for the page's text colour, which matplotlib does not know
_NARROW, _WIDE = (3.6, 2.2), (7.2, 2.4)  # inches; the page scales the picture to its column
# columns of equal width, so that a single plot in a row is as large as the others
_GRID = (
    "display: grid; grid-template-columns: repeat(auto-fit, minmax(min(280px, 100%), 1fr)); gap: 20px 28px; "
    "margin: 4px 0"
)
_TEXT = "font: 14px/1.4 system-ui, sans-serif; color: var(--jp-ui-font-color1, #1f2328)"
_SMALL = "font-size: 12px; opacity: 0.85"


@dataclass(frozen=True)
class Plot:
    """A plot with its words.

    Attributes:
        axes: of a figure of their own, made by `new_axes`.
        title: what is shown.
        upward, across: labels of the axes, with units.
        legend: (words, colour) pairs.
        empty: text shown if there is no data.
        wide: whether it takes a whole row.
    """

    axes: Axes
    title: str
    upward: str
    across: str
    legend: Sequence[tuple[str, str]] = ()
    empty: str = "No data yet"
    wide: bool = False


def new_axes(wide: bool = False) -> Axes:
    """Axes in a figure of their own, made without pyplot, which would keep every figure in memory."""
    axes = Figure(figsize=_WIDE if wide else _NARROW, layout="constrained").add_subplot()
    axes.grid(color=_INK, alpha=0.18)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_INK, which="both", labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_INK)
    return axes


def count_across(axes: Axes) -> None:
    """Label the horizontal axis with whole numbers, such as steps."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def plain_numbers(axes: Axes) -> None:
    """Label a logarithmic vertical axis with plain numbers: 0.05 instead of 5 × 10⁻²."""
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))

    def minor(value: float, _: object) -> str:
        low, high = axes.get_ylim()
        # within a decade there is one power of ten or none; in a narrow range every mark counts
        digits = "123456789" if high < 3 * low else "25" if high < 20 * low else ""
        return f"{value:g}" if f"{value:e}"[0] in digits else ""

    axes.yaxis.set_minor_formatter(FuncFormatter(minor))


def line_at(axes: Axes, height: float) -> None:
    """Draw a horizontal line in the colour of the text."""
    axes.axhline(height, color=_INK, linewidth=0.8)


def shown(plots: Sequence[Plot]) -> HTML:
    """Plots for the end of a cell."""
    return HTML(plots_html(plots))


def plots_html(plots: Sequence[Plot]) -> str:
    """Plots beside each other, for an HTML widget; 10 to 90 kB each for 400 steps."""
    return f'<div style="{_TEXT}; {_GRID}">{"".join(map(_figure, plots))}</div>'


def _figure(plot: Plot) -> str:
    mark = '<span style="white-space: nowrap"><span aria-hidden="true" style="color: {}">⬤</span> {}</span>'
    colours = "".join(mark.format(colour, escape(words)) for words, colour in plot.legend)
    across = f'<div style="{_SMALL}; text-align: right">{escape(plot.across)}</div>'
    drawn = _svg(plot) + across if plot.axes.has_data() else f"<p>{escape(plot.empty)}</p>"
    columns, most = ("1 / -1", "880px") if plot.wide else ("auto", "430px")
    return (
        f'<figure style="margin: 0; min-width: 0; grid-column: {columns}; max-width: {most}">'
        f'<figcaption style="font-weight: 600">{escape(plot.title)}</figcaption>'
        f'<div style="{_SMALL}; display: flex; flex-wrap: wrap; gap: 0 12px; margin-bottom: 4px">'
        f"<span>{escape(plot.upward)}</span>{colours}</div>{drawn}</figure>"
    )


def _svg(plot: Plot) -> str:
    stream = io.StringIO()
    figure = plot.axes.get_figure(root=True)
    assert figure is not None
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    drawing = stream.getvalue()
    words = escape(f"{plot.title}: {plot.upward}; {plot.across}", quote=True)
    # without matplotlib's style sheet, which would apply to the whole page, and its size, which the page decides
    style = "display: block; width: 100%; height: auto; stroke-linejoin: round; stroke-linecap: butt"
    begin = f'<svg role="img" aria-label="{words}" style="{style}" '
    drawing = begin + drawing[drawing.index("<svg") + len("<svg") :]
    drawing = re.sub(r' (?:width|height)="[\d.]+pt"', "", drawing, count=2)
    drawing = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", drawing, flags=re.DOTALL)
    return drawing.replace(_INK, "currentColor")
