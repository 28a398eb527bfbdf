"""What Lab itself says and does around a panel."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import open_in_lab, picture_of
from tests.browser.servers import Server, write_notebook

pytestmark = pytest.mark.chromium

CELL = """
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.ui.panel import Panel
Panel(SpeechToVideo, profile="pocket")
"""
QUICK = """
from wanavatar_lab.requests import TextToImage
from wanavatar_lab.ui.panel import Panel
Panel(TextToImage, profile="pocket", prompt="a woman with red hair", num_inference_steps=1, upscale=False)
"""
RUN = 120_000  # milliseconds that it may take on a busy machine
AFTERWARDS = 2500  # milliseconds; Lab asks when it has set itself up
TO_ITS_END = "panel => panel.scrollIntoView({block: 'end'})"


def test_lab_asks_nothing_and_what_is_made_stays_in_view(lab: Server, place: Path, page: Page) -> None:
    write_notebook(place / "notebooks" / "alone.ipynb", CELL)
    open_in_lab(page, lab, "alone")
    run = page.get_by_role("button", name="Run", exact=True)
    expect(run).to_be_visible()
    page.wait_for_timeout(AFTERWARDS)
    expect(page.get_by_text("Jupyter news")).to_have_count(0)

    # at the panel's end, where the button is, one sees what it has begun
    page.locator(".wl-panel-form").evaluate(TO_ITS_END)
    expect(run).to_be_in_viewport()
    expect(page.get_by_text("Progress and results are shown here.")).to_be_in_viewport()
    picture_of(page, "lab-panel-end")


def test_a_small_window_goes_to_what_was_begun_and_made(lab: Server, place: Path, page: Page) -> None:
    write_notebook(place / "notebooks" / "small.ipynb", QUICK)
    page.set_viewport_size({"width": 640, "height": 620})
    open_in_lab(page, lab, "small")
    run = page.get_by_role("button", name="Run", exact=True)
    run.click()
    card = page.get_by_role("region", name="Text to image")
    expect(card).to_be_in_viewport()
    expect(card.get_by_text("Done", exact=True)).to_be_visible(timeout=RUN)
    expect(card.get_by_text("took")).to_have_text(re.compile(r"took (\d\.\d s|\d+:\d\d) "))
    picture_of(page, "lab-small")

    page.get_by_role("combobox", name="Language").select_option("zh")
    expect(page.get_by_role("button", name="运行", exact=True)).to_be_attached()
    expect(page.get_by_role("textbox", name="提示词")).to_have_value("a woman with red hair")
