"""What panels and the page have in common: the style sheet for their fields, and that no dropped file takes it away."""

import asyncio
from collections.abc import Callable

import anywidget
import traitlets

from wanavatar_lab.ui.widget import STATIC, styles


class Look(anywidget.AnyWidget):
    """Shows nothing. The styles are there once per page however many of these there are.

    Attributes:
        drawn: whether a page has drawn what this is a part of.
    """

    _esm = (STATIC / "look.js").read_text(encoding="utf-8")
    _css = styles("panel", "page")

    drawn = traitlets.Bool(False).tag(sync=True)

    def __init__(self) -> None:
        super().__init__(layout={"display": "none"})

    def when_drawn(self, work: Callable[[], None]) -> None:
        """Do `work` once a page has drawn this, in the event loop that runs now; at once where none runs.

        What makes widgets must not go by the clock instead: a page that is just loading those there are would get
        some that refer to what it does not know yet, and fail to show them.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            work()
            return

        def drawn(_: object) -> None:
            # a page's message may come in any thread
            self.unobserve(drawn, "drawn")
            loop.call_soon_threadsafe(work)

        self.observe(drawn, "drawn")
