"""TensorBoard for a run, on this machine only, until the kernel ends."""

import asyncio
from html import escape
from pathlib import Path

import ipywidgets as widgets

from wanavatar_lab.ui import tasks
from wanavatar_lab.ui.elements import AS_WIDE_AS_ITS_WORDS, alert
from wanavatar_lab.ui.language import language, read_words
from wanavatar_lab.ui.widget import Look

HOST = "127.0.0.1"
FOLDER = "tensorboard"  # of a run

WORDS = read_words(__file__, "tensorboard")
_served: dict[Path, str] = {}  # addresses by run: there is no way to end one of TensorBoard's servers


class Board(widgets.VBox):
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
        super().__init__([Look(), self._button, self._said, self._page], _dom_classes=["wl-panel"])
        self._button.on_click(lambda _: tasks.start(self.serve()))
        self._unfollow = language.follow(self._say)

    async def serve(self) -> None:
        """Serve TensorBoard at a port that is free, and show it; what is served in this kernel already is shown."""
        if not (self._run / FOLDER).is_dir():
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
        self._say()

    def close(self) -> None:
        """Take it away; TensorBoard ends with the kernel."""
        self.__dict__.pop("_unfollow", lambda: None)()
        super().close()

    def _say(self) -> None:
        self._button.description = language.of(WORDS["open"])
        if self.address:
            written = escape(self.address, quote=True)
            link = f'<a href="{written}" target="_blank" rel="noopener">{written}</a>'
            said = escape(language.of(WORDS["at"])).format(address=link)
            self._said.value = f'<div class="wl-help" role="status" lang="{language.code}">{said}</div>'


def _address(run: Path) -> str:
    if run not in _served:
        # it takes a second to import, and is wanted only here
        from tensorboard import program  # type: ignore[import-untyped]

        board = program.TensorBoard()
        board.configure(logdir=str(run / FOLDER), host=HOST, port=0, load_fast="false", reload_interval=5)
        _served[run] = board.launch()
    return _served[run]
