"""The page that `make web` serves and `notebooks/app.ipynb` shows: tabs for the stages, the LoRAs, and what was made.

A tab is built when it is first looked at, so that the page is there at once.

Says on the page when nobody is behind it any more: the kernel, or the server.

The page pings its kernel, which answers. Where no answer comes, the page asks the server about the kernel: a busy one
is left in peace, one that is gone or was started anew is said, with what to do.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets
import traitlets

from wanavatar_lab import jobs
from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import STAGE_REQUESTS, Request, Words
from wanavatar_lab.ui.fields import bare_box, bare_html
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.language_switch import LanguageSwitch
from wanavatar_lab.ui.panel import Panel
from wanavatar_lab.ui.widget import LabWidget, Look, script, styles

PATIENCE_SECONDS = 5.0

HEARTBEAT_WORDS = read_words(__file__, "heartbeat")


class Heartbeat(LabWidget):
    """Shows nothing as long as all is well.

    Args:
        patience: seconds in which an answer must come.
    """

    _esm = script("heartbeat")
    _css = styles("heartbeat")
    WORDS: ClassVar[dict[str, Words]] = HEARTBEAT_WORDS

    patience = traitlets.Float(PATIENCE_SECONDS).tag(sync=True)
    kernel_id = traitlets.Unicode("").tag(sync=True)

    def __init__(self, patience: float = PATIENCE_SECONDS) -> None:
        super().__init__(patience=patience, kernel_id=_kernel_id())
        self.on_msg(self._hear)

    def _hear(self, _: Any, content: dict[str, Any], __: list[memoryview]) -> None:
        if content.get("kind") == "ping":
            self.send({"kind": "pong", "number": content.get("number")})


def _kernel_id() -> str:
    """The server's name of this kernel; "" outside of one."""
    from ipykernel.kernelapp import IPKernelApp

    if not IPKernelApp.initialized():
        return ""
    # servers name the connection file after the kernel
    name = str(IPKernelApp.instance().connection_file).rpartition("/")[2]
    return name.removeprefix("kernel-").removesuffix(".json")


NAME = "WanAvatar Lab"
WORDS = read_words(__file__, "page")
# which stage a file from the gallery goes to that the panel looked at last has no use for
TAKERS = ("speech_to_video", "image_to_video", "upscale")


@dataclass(frozen=True)
class Tab:
    """A tab: what it is called, and what makes its content."""

    title: Words
    build: Callable[[], ipywidgets.Widget]


class Page(ipywidgets.VBox):
    """The page.

    Args:
        tabs: from left to right; one for each stage, the LoRAs and the gallery, if None.
        profile: which models the stages' panels begin with.
    """

    def __init__(self, tabs: Sequence[Tab] | None = None, profile: str = "pocket") -> None:
        self.profile = profile
        self.tabs = self._all_tabs() if tabs is None else list(tabs)
        self._places = [bare_box(ipywidgets.VBox) for _ in self.tabs]
        self._tab = ipywidgets.Tab(self._places)
        self._last_stage = 0  # the place of the panel that was looked at last
        self._title = bare_html()
        head = bare_box(ipywidgets.HBox, [self._title, LanguageSwitch()], "wl-page-head")
        super().__init__([Look(), Heartbeat(), head, self._tab])
        self.add_class("wl-page")
        self.add_class("wl-has-language")
        self._tab.observe(lambda change: self._open(change["new"]), "selected_index")
        self._unfollow = language.follow(self._name)
        self._tab.selected_index = 0
        self._open(0)

    def close(self) -> None:
        """End the page; it follows the language no more."""
        if getattr(self, "_unfollow", None) is not None:
            self._unfollow()
        super().close()

    def use(self, path: Path) -> None:
        """Put a file into the panel looked at last, or into the first other one that takes such files, and show it.

        Raises:
            LabError: no stage takes such a file.
        """
        stages = list(STAGE_REQUESTS)
        for index in (self._last_stage, *(stages.index(stage) for stage in TAKERS)):
            try:
                self._panel(index).form.take(path)
            except LabError as error:
                refused = error
            else:
                self._tab.selected_index = index
                return
        raise refused

    def use_lora(self, name: str, stage: str, profile: str) -> None:
        """Switch a LoRA on in the panel of a stage, and show it."""
        from wanavatar_lab.ui.lora_list import take_up

        index = list(STAGE_REQUESTS).index(stage)
        take_up(self._panel(index).form, name, profile)
        self._tab.selected_index = index

    def change(self, request: Request) -> None:
        """Show a request in the panel of its stage, to be changed and run."""
        index = list(STAGE_REQUESTS).index(request.stage)
        self._panel(index).form.fill(request)
        self._tab.selected_index = index

    def _all_tabs(self) -> list[Tab]:
        stages = [Tab(kind.labels, partial(Panel, kind, profile=self.profile)) for kind in STAGE_REQUESTS.values()]
        return [*stages, Tab(WORDS["loras"], self._loras), Tab(WORDS["gallery"], self._runs_and_gallery)]

    def _loras(self) -> ipywidgets.Widget:
        from wanavatar_lab.ui.lora_list import LoraList  # here and below: the first tab is there before others are read

        loras = LoraList()
        loras.on_use(self.use_lora)
        return loras

    def _runs_and_gallery(self) -> ipywidgets.Widget:
        """What is under way, and what was made; a run that is run again appears among the former."""
        from wanavatar_lab.ui.gallery import Gallery
        from wanavatar_lab.ui.running_jobs import Ongoing

        gallery = Gallery()
        gallery.on_again(jobs.submit)
        gallery.on_use(lambda path, kind: self.use(path))
        gallery.on_change(self.change)
        gallery.on_lora(self.use_lora)
        return ipywidgets.VBox([Ongoing(), gallery])

    def _panel(self, index: int) -> Panel:
        self._build(index)
        (panel,) = self._places[index].children
        return panel

    def _name(self) -> None:
        self._title.value = f'<div lang="{language.code}"><h1>{NAME}</h1><p>{language.of(WORDS["lead"])}</p></div>'
        self._tab.titles = [language.of(tab.title) for tab in self.tabs]

    def _open(self, index: int | None) -> None:
        if index is not None:
            self._build(index)
            if isinstance(self._places[index].children[0], Panel):
                self._last_stage = index

    def _build(self, index: int) -> None:
        if not self._places[index].children:
            self._places[index].children = (self.tabs[index].build(),)
