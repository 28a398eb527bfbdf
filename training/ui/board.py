"""TensorBoard for a run, on this machine only, until the kernel ends."""

import asyncio
from html import escape
from pathlib import Path

import ipywidgets as widgets

HOST = "127.0.0.1"


class Board(widgets.HTML):
    """TensorBoard in the page, and its address.

    Attributes:
        address: on this machine. Where the notebook is opened from another one, its port has to be forwarded.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        written = escape(address, quote=True)
        super().__init__(
            f'<p>TensorBoard is at <a href="{written}" target="_blank" rel="noopener">{written}</a>, on the machine '
            "that runs this notebook.</p>"
            f'<iframe src="{written}" title="TensorBoard" style="width: 100%; height: 640px; border: 0"></iframe>'
        )


async def open_board(run: Path) -> Board:
    """Serve the TensorBoard of a run, at a port that is free."""
    return Board(await asyncio.to_thread(_launched, run))


def _launched(run: Path) -> str:
    # it takes a second to import, and is wanted only here
    from tensorboard import program  # type: ignore[import-untyped]

    board = program.TensorBoard()
    board.configure(logdir=str(run / "tensorboard"), host=HOST, port=0, load_fast="false", reload_interval=5)
    address: str = board.launch()
    return address
