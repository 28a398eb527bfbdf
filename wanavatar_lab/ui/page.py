"""The page that `make web` serves and `notebooks/app.ipynb` shows: tabs for the stages, all of them in a row, the
tools, the LoRAs and the gallery.

A tab is built when it is first opened, so that the page appears at once. A heartbeat shows when the kernel or the
server is gone.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets
import traitlets

from wanavatar_lab.requests import STAGE_REQUESTS, Tool, Words
from wanavatar_lab.requests.field_spec import translated
from wanavatar_lab.runs.run import runs_folder
from wanavatar_lab.ui.elements import bare, heading
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.panel import Panel, PanelHost
from wanavatar_lab.ui.widget import LabWidget, LanguageSwitch, Look, repeat, script, styles
from wanavatar_lab.worker.queue import RunQueue

if TYPE_CHECKING:
    from wanavatar_lab.ui.tools import ToolPanels

NAME = "WanAvatar Lab"
MARK = Path(__file__).parent / "voila_templates" / "voila" / "templates" / "wanavatar" / "mark.svg"
PATIENCE_SECONDS = 5.0
LOOK_SECONDS = 1.0
WORDS = read_words(__file__, "page")

Tab = tuple[Words, Callable[[], widgets.Widget]]  # its title, and a function that makes its content


class Page(PanelHost):
    """The page.

    Args:
        tabs: from left to right; if None, one for each stage, all of them in a row, the tools, the LoRAs and the
            gallery.
        profile: which models the stages' panels begin with.
    """

    def __init__(self, tabs: Sequence[Tab] | None = None, profile: str = "pocket") -> None:
        self._stages = [stage for stage, kind in STAGE_REQUESTS.items() if not issubclass(kind, Tool)]
        kinds = [STAGE_REQUESTS[stage] for stage in self._stages]
        ours: list[Tab] = [(kind.labels, partial(Panel, kind, profile=profile)) for kind in kinds]
        ours += [(translated("Pipeline"), partial(_pipeline, profile)), (WORDS["tools"], self._tools)]
        ours += [(WORDS["loras"], self._loras), (WORDS["gallery"], self._runs_and_gallery)]
        self.tabs = ours if tabs is None else list(tabs)
        self._places = [bare(widgets.VBox) for _ in self.tabs]
        self._tab = widgets.Tab(self._places)
        self._title = bare(widgets.HTML)
        self._tool_panels: ToolPanels | None = None
        self._queue: widgets.Button | None = None  # made when the queue is first in use, and hidden while it is empty
        self._switches = [ThemeSwitch(), LanguageSwitch()]
        self._head = head = bare(widgets.HBox, "wl-page-head", children=[self._title, *self._switches])
        super().__init__([Look(), Heartbeat(), head, self._tab], _dom_classes=["wl-page", "wl-has-language"])
        self._tab.observe(lambda change: self._open(change["new"]), "selected_index")
        self._tab.selected_index = 0
        self._open(0)
        self.look()
        repeat(self.look, LOOK_SECONDS, self)

    def show_words(self) -> None:
        """Put the title and the names of the tabs into the language shown."""
        self._title.value = f'<div class="wl-page-name">{MARK.read_text()}{heading(1, NAME, WORDS.text("lead"))}</div>'
        self.look()
        self._tab.titles = [language.of(title) for title, _ in self.tabs]

    def look(self) -> None:
        """Show in the head how many runs the queue has, and whether it is paused."""
        queue = RunQueue(runs_folder())
        count, paused = len(queue.run_ids()), queue.is_paused()
        if self._queue is None:
            if not count and not paused:
                return
            self._queue = widgets.Button(_dom_classes=["wl-queue-link"])
            self._queue.on_click(lambda _: self.show_queue())
            self._head.children = [self._title, self._queue, *self._switches]
        self._queue.description = WORDS.text("queue_paused" if paused else "queue", count=count)
        self._queue.layout.display = None if count or paused else "none"

    def show_queue(self) -> None:
        """Show the tab with the queue."""
        self._tab.selected_index = len(self.tabs) - 1

    def _tools(self) -> widgets.Widget:
        from wanavatar_lab.ui.tools import ToolPanels  # as below: the first tab appears before others are imported

        self._tool_panels = ToolPanels(self._in_use)
        return self._tool_panels

    def _loras(self) -> widgets.Widget:
        from wanavatar_lab.ui.lora_list import LoraList  # as the tools

        loras = LoraList()
        loras.on_use(self.use_lora)
        return loras

    def _runs_and_gallery(self) -> widgets.Widget:
        """The unfinished runs, and all results; a run that is run again appears among the former."""
        from wanavatar_lab.ui.gallery import Gallery
        from wanavatar_lab.ui.queue_view import QueueView

        gallery, running = Gallery(unfinished=False), QueueView()
        self.connect(gallery, running)
        return widgets.VBox([self.drop_zone(), running, gallery], _dom_classes=["wl-results"])

    def open_panel(self, stage: str) -> Panel:
        """Show the tab of a stage."""
        is_tool = issubclass(STAGE_REQUESTS[stage], Tool)
        index = len(self._stages) + 1 if is_tool else self._stages.index(stage)
        self._tab.selected_index = index
        (content,) = self._places[index].children
        panel: Panel = content.choose(stage) if is_tool else content
        return panel

    def _open(self, index: int | None) -> None:
        """Build the content of a tab when it is first shown."""
        if index is None:
            return
        place = self._places[index]
        if not place.children:
            place.children = (self.tabs[index][1](),)
        if isinstance(panel := place.children[0], Panel):
            self._in_use(panel)
        elif self._tool_panels is not None and panel is self._tool_panels:
            self._in_use(self._tool_panels.panel)

    def _in_use(self, panel: Panel) -> None:
        self.stage_in_use, panel.host = panel.form.request_class.stage, self


def _pipeline(profile: str) -> widgets.Widget:
    from wanavatar_lab.ui.pipeline import Pipeline  # as the LoRAs

    return Pipeline(profile=profile)


class ThemeSwitch(LabWidget):
    """A menu of the themes of a page that has its own: the system's, light or dark, which its browser remembers."""

    _esm = script("theme_switch")
    _css = styles()
    WORDS = read_words(__file__, "theme_switch")


class Heartbeat(LabWidget):
    """Invisible while the kernel answers; otherwise a message that says what is gone and what to do.

    The page pings its kernel. Where no answer comes, it asks the server about the kernel: a busy one is left alone,
    one that was stopped or restarted is reported.

    Args:
        patience: seconds in which an answer must come.
    """

    _esm = script("heartbeat")
    _css = styles("heartbeat")
    WORDS = read_words(__file__, "heartbeat")

    patience = traitlets.Float(PATIENCE_SECONDS).tag(sync=True)
    kernel_id = traitlets.Unicode("").tag(sync=True)

    def __init__(self, patience: float = PATIENCE_SECONDS) -> None:
        kernel_id = ""  # outside of a kernel
        kernelapp = sys.modules.get("ipykernel.kernelapp")  # which every kernel has imported
        if kernelapp is not None and kernelapp.IPKernelApp.initialized():
            # servers name the connection file after the kernel
            name = str(kernelapp.IPKernelApp.instance().connection_file).rpartition("/")[2]
            kernel_id = name.removeprefix("kernel-").removesuffix(".json")
        super().__init__(patience=patience, kernel_id=kernel_id)

    def receive(self, content: Mapping[str, Any], buffers: Sequence[memoryview] = ()) -> None:
        """Answer a ping."""
        if content.get("kind") == "ping":
            self.send({"kind": "pong", "number": content.get("number")})
