"""TensorBoard for a run, reachable from this machine only, until the kernel shuts down."""

import asyncio
from html import escape
from pathlib import Path

import ipywidgets as widgets

from training.loop.run_folder import TENSORBOARD
from training.ui.training_panel import TrainingPanel
from wanavatar_lab.ui import widget
from wanavatar_lab.ui.elements import AS_WIDE_AS_ITS_WORDS, alert
from wanavatar_lab.ui.language import language, read_words

HOST = "127.0.0.1"

WORDS = read_words(__file__, "tensorboard")
_served: dict[Path, str] = {}  # addresses by run; TensorBoard has no way to stop one of its servers


class Board(TrainingPanel):
    """A button that opens TensorBoard in the page.

    Args:
        run: its folder.

    Attributes:
        address: on this machine; empty until it is open.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self.address = ""
        self._button = widgets.Button(layout=AS_WIDE_AS_ITS_WORDS)
        self._said, self._page = widgets.HTML(), widgets.HTML()
        super().__init__([self._button, self._said, self._page])
        self._button.on_click(lambda _: widget.start(self.serve()))

    async def serve(self) -> None:
        """Serve TensorBoard at a free port and show it; a run that this kernel serves already is only shown."""
        if not (self._run / TENSORBOARD).is_dir():
            self._said.value = alert(language.of(WORDS["nothing"]))
            return
        self._button.disabled = True
        try:
            self.address = await asyncio.to_thread(_address, self._run.absolute())
        finally:
            self._button.disabled = False
        self._page.value = (
            f'<iframe src="{escape(self.address, quote=True)}" title="TensorBoard" '
            'style="width: 100%; height: 720px; border: 0; background: white"></iframe>'
        )
        self.show_words()

    def show_words(self) -> None:
        """Write the button and the address in the current language."""
        self._button.description = language.of(WORDS["open"])
        if self.address:
            address = escape(self.address, quote=True)
            link = f'<a href="{address}" target="_blank" rel="noopener">{address}</a>'
            said = escape(language.of(WORDS["at"])).format(address=link)
            self._said.value = f'<div class="wl-help" role="status" lang="{language.code}">{said}</div>'


def _address(run: Path) -> str:
    if run not in _served:
        from tensorboard import program  # type: ignore[import-untyped]  # here, since its import takes a second

        board = program.TensorBoard()
        board.configure(logdir=str(run / TENSORBOARD), host=HOST, port=0, load_fast="false", reload_interval=5)
        _served[run] = board.launch()
    return _served[run]
