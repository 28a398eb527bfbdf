"""The gallery in a notebook: all results, the runs under way, and below them the panel in which one is used.

gallery = GalleryPanel(kind="talking", query="red hair")
gallery                   # in a notebook: shows it
gallery.artifact          # what the next cell takes
"""

import time
from pathlib import Path

import ipywidgets as widgets

from wanavatar_lab.errors import RequestError
from wanavatar_lab.requests import STAGE_REQUESTS
from wanavatar_lab.requests.request import shown, suggestion
from wanavatar_lab.ui.elements import refill
from wanavatar_lab.ui.gallery import LORA, Gallery
from wanavatar_lab.ui.language import shorten
from wanavatar_lab.ui.panel import Panel, PanelHost
from wanavatar_lab.ui.queue_view import QueueView
from wanavatar_lab.ui.widget import LanguageSwitch

LONGEST_TITLE = 60  # characters in a line of `listing`


class GalleryPanel(PanelHost):
    """The queue, the gallery, and the panel of the stage in which something is used or changed.

    Args:
        kind: what is shown at first: picture, video, audio, talking, lora; "" shows everything.
        query: words searched for at first.
        profile: which models a panel begins with.

    Attributes:
        running: the runs of the queue.
        gallery: the runs that have ended, and the LoRAs.
        panel: where something was used last; None until then.

    Raises:
        RequestError: there is no such kind.
    """

    def __init__(self, kind: str = "", query: str = "", profile: str = "pocket") -> None:
        known = [*dict.fromkeys(request.artifact for request in STAGE_REQUESTS.values() if request.artifact), LORA]
        if kind and kind not in known:
            raise RequestError([("kind", f"{shown(kind)} is not a kind of artifact; {suggestion(kind, known)}")])
        self.panel: Panel | None = None
        self.gallery = Gallery(unfinished=False)
        self.running = QueueView(elsewhere=lambda: self.panel.run_ids if self.panel else ())
        self._profile = profile
        self._used: Path | None = None
        self._place = widgets.VBox()
        self.gallery.kind, self.gallery.query = kind, query
        self.connect(self.gallery, self.running)
        head = widgets.HBox([LanguageSwitch()], layout={"justify_content": "flex-end"})
        results = widgets.VBox([self.drop_zone(), self.running, self.gallery], _dom_classes=["wl-results"])
        super().__init__([head, results, self._place], _dom_classes=["wl-has-language"])

    @property
    def artifact(self) -> Path | None:
        """The file that was used last, else the newest found; None where there is none."""
        return self._used or next(iter(self.gallery.files()), None)

    def listing(self, most: int = 20) -> str:
        """The entries found, newest first, a line for each: time, stage, prompt, and path of the file.

        Paths are relative to the folder that the page is served from, or absolute outside of it.
        """
        lines = []
        for entry in self.gallery.entries[:most]:
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry["time"]))
            file = self.gallery.file_of(entry["id"])
            where = f"{entry['id']} ({entry['state']})" if file is None else entry["picture"]["path"] or str(file)
            lines.append("  ".join([when, entry["stage"], shorten(entry["title"], LONGEST_TITLE), where]))
        return "\n".join([*lines, f"{len(lines)} of {self.gallery.total}"])

    def use(self, path: Path) -> None:
        """Put a file into the panel below, or into that of the first stage that takes such files.

        Raises:
            LabError: no stage takes such a file.
        """
        super().use(path)
        self._used = path

    def open_panel(self, stage: str) -> Panel:
        """Show the panel of a stage instead of another stage's."""
        if self.panel is None or self.stage_in_use != stage:
            self.panel, self.stage_in_use = Panel(STAGE_REQUESTS[stage], profile=self._profile), stage
            refill(self._place, self.panel)
        return self.panel
