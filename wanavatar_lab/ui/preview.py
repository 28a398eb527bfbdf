"""What a chosen file looks or sounds like, under the control that chose it; of a recording a part can be chosen."""

from collections.abc import Callable, Mapping

import ipywidgets as widgets

from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import FieldView
from wanavatar_lab.ui.fields.control import BESIDE_LABELS, Control, shared
from wanavatar_lab.ui.receiving import KINDS
from wanavatar_lab.ui.urls import can_show

_PICTURE_WIDTH = "16em"


class Preview(widgets.VBox):
    """A picture, a clip, or a recording with its waveform; nothing where the page cannot show the file.

    A recording of a field `x` whose form has `x_start` and `x_duration` can be cut: its waveform and these two follow
    each other.

    Args:
        view: the field whose file it is.
    """

    def __init__(self, view: FieldView) -> None:
        self._view = view
        self._path: str | None = None
        self._part: tuple[Control, Control] | None = None
        self._made: widgets.Widget | None = None
        self._following = False
        super().__init__(layout=shared(widgets.Layout, margin=f"0 0 0 {BESIDE_LABELS}"))

    def meet(self, controls: Mapping[str, Control]) -> None:
        """Find the fields that say which part of the recording is used."""
        start, duration = (controls.get(f"{self._view.name}_{what}") for what in ("start", "duration"))
        if start is not None and duration is not None:
            self._part = start, duration

    def show(self, path: str | None, complain: Callable[[str], None]) -> None:
        """Show a file, or nothing; `complain` is told what is wrong with it."""
        if path == self._path:
            return
        self._path = path
        if self._made is not None:
            self._made.close()
        self._made, self.children = None, []
        if path is None or not can_show(path):
            return
        try:
            self._made = self._make(path)
        except LabError as error:  # damaged, or not what its name says
            complain(str(error))
            return
        self.children = [self._made] if self._made is not None else []
        self.look_around()

    def look_around(self) -> None:
        """Let the waveform show the part that the form says."""
        if self._part is None or self._made is None or self._following:
            return
        start, duration = self._part
        self._following = True
        try:
            self._made.choose(start.value, duration.value)
        finally:
            self._following = False

    def _make(self, path: str) -> widgets.Widget | None:
        from wanavatar_lab.ui.player import Player
        from wanavatar_lab.ui.waveform import Waveform

        if self._view.widget == "audio":
            waveform = Waveform(path)
            waveform.observe(self._chosen, ["start", "end"])
            return waveform
        if _suffix(path) not in KINDS:
            return None
        player = Player(path)
        player.layout.width = _PICTURE_WIDTH
        return player

    def _chosen(self, _: object) -> None:
        if self._part is None or self._made is None or self._following:
            return
        self._following = True
        try:
            part = self._made.audio_start, self._made.audio_duration
            for control, value in zip(self._part, part, strict=True):
                if control.value != value:
                    control.change(value)
        finally:
            self._following = False


def _suffix(path: str) -> str:
    return "." + path.rpartition(".")[2].lower()
