"""A plot as a picture in an output, with words for who does not see it."""

import base64
import io
from html import escape

from IPython.display import HTML
from matplotlib.figure import Figure

DOTS_PER_INCH = 110


def png_of(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=DOTS_PER_INCH)
    return stream.getvalue()


def shown_figure(figure: Figure, says: str) -> HTML:
    """A figure for the end of a cell: HTML, since Jupyter leaves the words of a bare picture out.

    Args:
        says: what is to be seen, in a sentence.
    """
    return HTML(figure_html(figure, says))


def figure_html(figure: Figure, says: str) -> str:
    """A figure for a widget that shows HTML; small enough to be sent whole each time."""
    data = base64.b64encode(png_of(figure)).decode("ascii")
    return f'<img src="data:image/png;base64,{data}" alt="{escape(says, quote=True)}" style="max-width: 100%">'
