"""A grid of runs in a notebook: its sheet has the axes at once and fills while the runs go on."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Show, nameless, open_in_lab, picture_of
from tests.browser.servers import Server, write_notebook
from tests.ui import made_runs

pytestmark = pytest.mark.chromium

CELL = """
from wanavatar_lab.requests import TextToImage
from wanavatar_lab.ui.sweep import sweep
request = TextToImage(profile="pocket", prompt="a woman with red hair", upscale=False)
sweep(request, num_inference_steps=[1, 2], seed=[1, 2])
"""
RUNS = 120_000  # milliseconds that the four may take on a busy machine


def test_the_sheet_fills_itself(lab: Server, page: Page) -> None:
    write_notebook(lab.folder / "notebooks" / "sweep.ipynb", CELL)
    open_in_lab(page, lab, "sweep")
    sheet = page.get_by_role("table", name="Contact sheet")
    expect(sheet.get_by_text("Not generated yet")).to_have_count(4)
    expect(sheet.get_by_role("columnheader")).to_have_text(["Seed 1", "Seed 2"])
    expect(sheet.get_by_role("rowheader")).to_have_text(["Steps 1", "Steps 2"])
    first = sheet.get_by_role("img", name="Steps 1, Seed 1")
    expect(first).to_be_visible(timeout=RUNS)
    expect(sheet.get_by_role("img")).to_have_count(4, timeout=RUNS)
    page.wait_for_function("[...document.querySelectorAll('.wl-sheet img')].every(each => each.naturalWidth === 128)")
    assert nameless(page) == []
    picture_of(page, "sweep-lab")


def test_results_on_another_disk_are_sent(show: Show, page: Page, tmp_path: Path) -> None:
    made = [
        made_runs.picture(tmp_path / "a.png"),
        made_runs.clip(tmp_path / "b.mp4"),
        made_runs.sound(tmp_path / "c.wav"),
    ]
    cells = f"for column, path in enumerate({[str(path) for path in made]!r}):\n    sheet.fill(0, column, path)\nsheet"
    head = "from wanavatar_lab.ui.sweep import ContactSheet\nsheet = ContactSheet(['Steps 1'], ['1', '2', '3'])\n"
    server = show("sheet_of_another_disk", head + cells)
    expect(page.get_by_role("img", name="Steps 1, 1")).to_have_js_property("naturalWidth", 256)
    for kind in ("video", "audio"):
        page.wait_for_function(f"document.querySelector('.wl-sheet {kind}').duration > 1")
    page.get_by_role("button", name="Play all").click()
    page.wait_for_function("document.querySelector('.wl-sheet video').currentTime > 0")
    assert nameless(page) == []
    picture_of(page, f"sheet-of-another-disk-{server.kind}")
