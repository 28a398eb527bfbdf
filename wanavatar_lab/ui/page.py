"""The page that `make web` serves and `notebooks/app.ipynb` shows: tabs for the stages, the LoRAs, and what was made.

A tab is built when it is first looked at, so that the page is there at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ipywidgets

from wanavatar_lab import jobs
from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import STAGE_REQUESTS, Request, Words
from wanavatar_lab.ui.fields.control import bare_box, bare_html
from wanavatar_lab.ui.heartbeat import Heartbeat
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.language_switch import LanguageSwitch
from wanavatar_lab.ui.look import Look
from wanavatar_lab.ui.panel import Panel

NAME = "WanAvatar Lab"
WORDS: dict[str, Words] = {
    "loras": {"en": "LoRAs", "ko": "LoRA", "zh": "LoRA"},
    "gallery": {"en": "Gallery", "ko": "갤러리", "zh": "作品库"},
    "lead": {
        "en": "A sentence, a picture and a voice become a talking avatar.",
        "ko": "문장과 사진, 목소리로 말하는 아바타를 만듭니다.",
        "zh": "用一句话、一张图片和一段声音，生成会说话的数字人。",
    },
}
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
        from wanavatar_lab.ui.ongoing import Ongoing

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
