"""All tools in one place: a choice, and below it the panel of the one that is chosen."""

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from wanavatar_lab.requests import STAGE_REQUESTS, Tool
from wanavatar_lab.ui.elements import bare, set_options
from wanavatar_lab.ui.language import read_words, stage_name
from wanavatar_lab.ui.panel import Panel
from wanavatar_lab.ui.widget import LabBox

WORDS = read_words(__file__, "tools")


class ToolPanels(LabBox):
    """The panels of the tools; each is made when it is first shown, and keeps its values and results.

    Args:
        opened: called with every panel that is shown.
    """

    def __init__(self, opened: Callable[[Panel], None] = lambda _: None) -> None:
        self._opened = opened
        self._panels: dict[str, Panel] = {}
        self._by_program = False
        self._choice = bare(widgets.Dropdown, options=tool_stages())
        self._place = bare(widgets.VBox)
        head = bare(widgets.VBox, "wl-field", "wl-tool-choice", children=[self._choice])
        super().__init__([head, self._place], _dom_classes=["wl-tools"])
        self._choice.observe(lambda change: self._show(change["new"]), "value")
        self._show(self._choice.value)

    @property
    def panel(self) -> Panel:
        """The panel that is shown."""
        return self._panels[self._choice.value]

    def choose(self, stage: str) -> Panel:
        """Show the panel of a tool."""
        self._choice.value = stage
        return self.panel

    def show_words(self) -> None:
        """Put the choice into the language shown."""
        self._choice.description = WORDS.text("tool")
        self._by_program = True  # it selects the first for a moment
        set_options(self._choice, [(stage_name(stage), stage) for stage in tool_stages()])
        self._by_program = False

    def _show(self, stage: Any) -> None:
        if self._by_program:
            return
        if stage not in self._panels:
            self._panels[stage] = Panel(STAGE_REQUESTS[stage])
        # not closed as `refill` does: another tool that is looked at meanwhile takes no values away
        self._place.children = [self._panels[stage]]
        self._opened(self._panels[stage])


def tool_stages() -> list[str]:
    """The stages that are tools, those of other packages too."""
    return [stage for stage, request in STAGE_REQUESTS.items() if issubclass(request, Tool)]
