"""The gallery in a notebook: all results, the runs under way, and below them the panel in which one is used.

gallery = GalleryPanel(kind="talking", query="red hair")
gallery                   # in a notebook: shows it
gallery.artifact          # what the next cell takes
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from wanavatar_lab.errors import RequestError
from wanavatar_lab.requests import STAGE_REQUESTS
from wanavatar_lab.requests.request import shown, suggestion
from wanavatar_lab.ui.gallery import LORA, Gallery
from wanavatar_lab.ui.job_card import RunningJobs
from wanavatar_lab.ui.language import shorten
from wanavatar_lab.ui.language_switch import LanguageSwitch
from wanavatar_lab.ui.panel import Panel, PanelHost

LONGEST_TITLE = 60  # characters in a line of `listing`


class GalleryPanel(PanelHost):
    """The gallery, cards of unfinished runs, and the panel of the stage in which something is used or changed.

    Args:
        kind: what is shown at first: picture, video, talking, lora; "" shows everything.
        query: words searched for at first.
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
        self.connect(self.gallery)
        head = widgets.HBox([LanguageSwitch()], layout={"justify_content": "flex-end"})
        super().__init__([head, self.gallery, RunningJobs(), self._place], _dom_classes=["wl-has-language"])

    @property
    def artifact(self) -> Path | None:
        """The file that was used last, else the newest found; None where there is none."""
        newest = self.gallery.files()[:1]
        return self._used or (newest[0] if newest else None)

    def listing(self, most: int = 20) -> str:
        """The entries found, newest first, a line for each: time, stage, prompt, and path of the file.

        Paths are relative to the folder that the page is served from.
        """
        lines = [_line(entry) for entry in self.gallery.entries[:most]]
        return "\n".join([*lines, f"{len(lines)} of {self.gallery.total}"])

    def use(self, path: Path) -> None:
        """Put a file into the panel below, or into that of the first stage that takes such files.

        Raises:
            LabError: no stage takes such a file.
        """
        super().use(path)
        self._used = path

    def _panel_of(self, stage: str) -> Panel:
        if self.panel is not None and self._stage_in_use() == stage:
            return self.panel
        return Panel(STAGE_REQUESTS[stage], profile=self._profile)

    def _show_panel(self, panel: Panel) -> None:
        if self.panel is not None and self.panel is not panel:
            self.panel.close()
        self.panel = panel
        self._place.children = [panel]

    def _stage_in_use(self) -> str:
        return self.panel.form.request_class.stage if self.panel is not None else ""


def _line(entry: Mapping[str, Any]) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry["time"]))
    where = entry["picture"]["path"] if entry["picture"] else f"{entry['id']} ({entry['state']})"
    return "  ".join([when, entry["stage"], shorten(entry["title"], LONGEST_TITLE), where])
