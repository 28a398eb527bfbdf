"""The gallery as a notebook shows it: what was made, what is under way, and below it the panel to use it in.

gallery = GalleryPanel(kind="talking", query="red hair")
gallery                   # in a notebook: shows it
gallery.artifact          # what the next cell takes
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from wanavatar_lab import jobs
from wanavatar_lab.errors import LabError, RequestError
from wanavatar_lab.requests import STAGE_REQUESTS, Request
from wanavatar_lab.requests.request import shown, suggestion
from wanavatar_lab.ui.gallery import LORA, Gallery
from wanavatar_lab.ui.language_switch import LanguageSwitch
from wanavatar_lab.ui.lora_list import take_up
from wanavatar_lab.ui.panel import Panel
from wanavatar_lab.ui.running_jobs import Ongoing

LONGEST_TITLE = 60  # characters in a listing
# which stage a file goes to that the panel below has no use for
TAKERS = ("speech_to_video", "image_to_video", "upscale")


class GalleryPanel(widgets.VBox):
    """The gallery, cards of the runs that go on, and the panel of the stage in which something is used or changed.

    Args:
        kind: what is shown at first: picture, video, talking, lora; "" shows everything.
        query: words that are looked for at first.
        profile: which models a panel begins with.

    Attributes:
        gallery: the runs and LoRAs.
        panel: where something was used last; None until then.

    Raises:
        RequestError: there is no such kind.
    """

    def __init__(self, kind: str = "", query: str = "", profile: str = "pocket") -> None:
        known = [*dict.fromkeys(request.artifact for request in STAGE_REQUESTS.values() if request.artifact), LORA]
        if kind and kind not in known:
            raise RequestError([("kind", f"{shown(kind)} is not allowed; {suggestion(kind, known)}")])
        self.gallery = Gallery()
        self.panel: Panel | None = None
        self._profile = profile
        self._used: Path | None = None
        self._place = widgets.VBox()
        self.gallery.kind, self.gallery.query = kind, query
        self.gallery.on_again(jobs.submit)
        self.gallery.on_use(lambda path, _: self.use(path))
        self.gallery.on_change(self.change)
        self.gallery.on_lora(self.use_lora)
        self._ongoing = Ongoing()
        head = widgets.HBox([LanguageSwitch()], layout={"justify_content": "flex-end"})
        super().__init__([head, self.gallery, self._ongoing, self._place], _dom_classes=["wl-has-language"])

    @property
    def artifact(self) -> Path | None:
        """The file that was used last, else the newest that is found; None where there is none."""
        newest = self.gallery.files()[:1]
        return self._used or (newest[0] if newest else None)

    def listing(self, most: int = 20) -> str:
        """What is found, newest first, a line for each: when, what it is, its prompt, and where its file lies.

        Files are named from the folder that the page is served from.
        """
        lines = [_line(entry) for entry in self.gallery.entries[:most]]
        return "\n".join([*lines, f"{len(lines)} of {self.gallery.total}"])

    def use(self, path: Path) -> None:
        """Put a file into the panel below, or into the first other one that takes such files.

        Raises:
            LabError: no stage takes such a file.
        """
        self._used = path
        refused: LabError | None = None
        for stage in [*([self.panel.form.request_class.stage] if self.panel else []), *TAKERS]:
            panel = self._panel(stage)
            try:
                panel.form.take(path)
            except LabError as error:
                refused = refused or error
                if panel is not self.panel:
                    panel.close()
                continue
            self._show(panel)
            return
        assert refused is not None
        raise refused

    def use_lora(self, name: str, stage: str, profile: str) -> None:
        """Switch a LoRA on in the panel of a stage."""
        panel = self._panel(stage)
        take_up(panel.form, name, profile)
        self._show(panel)

    def change(self, request: Request) -> None:
        """Show a request in the panel of its stage, to be changed and run."""
        panel = self._panel(request.stage)
        panel.form.fill(request)
        self._show(panel)

    def close(self) -> None:
        """Take it away, with all that it shows. Runs go on."""
        # __del__ calls this too, also for one whose __init__ raised
        for name in ("gallery", "panel", "_ongoing"):
            if (widget := self.__dict__.get(name)) is not None:
                widget.close()
        super().close()

    def _panel(self, stage: str) -> Panel:
        """The panel below if it is of this stage, else a new one."""
        if self.panel is not None and self.panel.form.request_class.stage == stage:
            return self.panel
        return Panel(STAGE_REQUESTS[stage], profile=self._profile)

    def _show(self, panel: Panel) -> None:
        if panel is self.panel:
            return
        if self.panel is not None:
            self.panel.close()
        self.panel = panel
        self._place.children = [panel]


def _line(entry: Mapping[str, Any]) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry["time"]))
    where = entry["picture"]["path"] if entry["picture"] else f"{entry['id']} ({entry['state']})"
    title = entry["title"] if len(entry["title"]) <= LONGEST_TITLE else entry["title"][: LONGEST_TITLE - 1] + "…"
    return "  ".join([when, entry["stage"], title, where])
