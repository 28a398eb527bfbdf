"""TensorBoard in the page: served on this machine only, once for each run."""

import urllib.request
from pathlib import Path

from tests.ui.looking import alerts, named, text
from training.loop.run_log import Log
from training.ui.tensorboard import Board


def test_it_is_served_on_this_machine_once_there_is_something(tmp_path: Path) -> None:
    board = Board(tmp_path)
    named(board, "Open TensorBoard").click()
    assert "No TensorBoard data yet" in alerts(board) and not board.address
    log = Log(tmp_path, 0)
    log.write("train", 1, {"loss": 0.5})
    log.close()
    named(board, "Open TensorBoard").click()
    assert board.address.startswith("http://127.0.0.1:")
    assert f'<iframe src="{board.address}" title="TensorBoard"' in text(board) and not alerts(board)
    with urllib.request.urlopen(board.address, timeout=20) as answer:
        assert "<title>TensorBoard</title>" in answer.read().decode()
    again = Board(tmp_path)
    named(again, "Open TensorBoard").click()
    assert again.address == board.address
    for each in (board, again):
        each.close()
