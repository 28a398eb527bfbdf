"""A page whose kernel was killed says so, in Lab and in Voilà; one whose kernel is busy does not."""

import os
import signal
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Show, picture_of

pytestmark = pytest.mark.chromium

# its button keeps the kernel busy for longer than the page's patience
CELL = """
import os, pathlib, time
from ipywidgets import Button, VBox
from wanavatar_lab.ui.page import Heartbeat
button = Button(description="Block")
def block(_):
    time.sleep(3.5)
    pathlib.Path("../kernel").write_text(str(os.getpid()))
    time.sleep({seconds})
button.on_click(block)
VBox([Heartbeat(patience=1.0), button])
"""


@pytest.mark.parametrize("seconds", [0, 60], ids=["idle", "busy"])
def test_a_killed_kernel_is_said(show: Show, page: Page, place: Path, seconds: int) -> None:
    note = place / "kernel"
    note.unlink(missing_ok=True)
    server = show("heartbeat", CELL.format(seconds=seconds))
    alert = page.get_by_role("alert").filter(has_text="Kernel disconnected")
    page.get_by_role("button", name="Block").click()
    while not note.exists():
        page.wait_for_timeout(100)
        assert not alert.is_visible()
    os.kill(int(note.read_text()), signal.SIGKILL)
    expect(alert).to_be_visible()
    expect(alert.get_by_role("button", name="Reload")).to_be_visible()
    picture_of(page, f"heartbeat-{server.kind}")
