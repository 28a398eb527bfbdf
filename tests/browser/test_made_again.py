"""Runs of the pocket models on the page: ranges, the key that runs, the strip, the seed, the queue, portraits."""

from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import nameless, open_in_lab, picture_of
from tests.browser.looking import WHOLE
from tests.browser.servers import Server, write_notebook
from wanavatar_lab.jobs import list_jobs, pause, resume

pytestmark = pytest.mark.chromium

PATIENCE = 120_000  # milliseconds; a worker that has to load torch first is slow on a busy machine
PROMPT = "a woman with red hair and a green sweater, blue background"
CELL = """
from wanavatar_lab.requests import TextToImage
from wanavatar_lab.ui.panel import Panel
Panel(TextToImage, prompt="a cat", num_inference_steps=1, upscale=False)
"""


def the(page: Page, role: str, name: str) -> Locator:
    return page.get_by_role(role, name=name, exact=True).and_(page.locator(":visible"))  # type: ignore[arg-type]


def picture_made(index: int = 0) -> bytes:
    """The picture of a run by its number; 0 is the newest run."""
    return (list_jobs()[index].run.folder / "picture.png").read_bytes()


def test_from_a_number_out_of_range_to_the_same_bytes_again(app: Server, page: Page) -> None:
    page.goto(app.url)
    page.get_by_role("textbox", name="Prompt").fill(PROMPT)
    the(page, "combobox", "Aspect").select_option(label="Portrait")
    steps = the(page, "spinbutton", "Steps")
    steps.fill("99")
    steps.press("Control+Enter")
    expect(page.get_by_text("must be an integer from 1 to 12 (got 99)")).to_be_visible()
    expect(steps).to_have_value("99")
    assert list_jobs() == []
    steps.fill("1")
    steps.press("Control+Enter")  # which also sends the number that is still being typed
    strip = page.get_by_role("list", name="Earlier results").get_by_role("button")
    expect(strip).to_have_count(1, timeout=PATIENCE)
    assert list_jobs()[0].run.request().num_inference_steps == 1  # type: ignore[attr-defined]
    expect(steps).to_be_focused()

    seed = list_jobs()[0].status().seed
    the(page, "button", "Last seed").click()
    expect(the(page, "spinbutton", "Seed")).to_have_value(str(seed))
    expect(the(page, "button", f"seed {seed}")).to_be_visible()
    the(page, "button", "Same, new seed").click()
    expect(page.locator(".wl-job:visible")).to_have_count(2)  # the first one's card and picture stay meanwhile
    expect(page.locator(".wl-compare:visible")).to_have_count(1)
    expect(strip).to_have_count(2, timeout=PATIENCE)
    assert picture_made() != picture_made(1)
    strip.nth(1).click()
    expect(page.locator(".wl-job:visible")).to_contain_text(f"seed {seed}")
    the(page, "button", "Run again").click()
    expect(strip).to_have_count(3, timeout=PATIENCE)
    assert picture_made() == picture_made(2)
    assert all(strip.nth(index).locator("img").evaluate(WHOLE) for index in range(3))
    assert nameless(page) == []
    picture_of(page, "strip")

    the(page, "combobox", "Models").select_option(index=0)
    expect(page.get_by_role("alert").filter(has_text="not installed").locator("code")).to_have_text(
        "wanavatar-lab weights download FLUX.2-klein-9B"
    )
    the(page, "button", "Run").click()
    page.wait_for_timeout(500)
    assert len(list_jobs()) == 3


def test_the_gallery_shows_portraits_whole_and_leads_to_what_it_opens(app: Server, page: Page) -> None:
    page.set_viewport_size({"width": 1200, "height": 600})
    page.goto(app.url)
    page.get_by_role("tab", name="Gallery").click()
    cards = page.locator(".wl-gallery li")
    expect(cards).to_have_count(3)
    page.wait_for_function("[...document.querySelectorAll('.wl-gallery li img')].every((each) => each.naturalWidth)")
    assert all(cards.nth(index).locator("img").evaluate(WHOLE) for index in range(3))
    tall = cards.first.locator("img").evaluate("shown => shown.naturalHeight / shown.naturalWidth")
    assert tall > 1.5
    pause()  # or they end before one looks
    try:
        for _ in range(3):
            cards.last.get_by_text("More", exact=False).first.click()
            the(page, "button", "Same, new seed").click()
        waiting = page.get_by_role("list", name="Waiting runs").get_by_role("listitem")
        expect(waiting).to_have_count(3)
        expect(waiting.first).to_contain_text(PROMPT)
        expect(waiting.last).to_be_in_viewport()
        expect(cards).to_have_count(3)  # of those that have ended
        picture_of(page, "queue")
        the(page, "button", "Cancel all").click()
        expect(waiting).to_have_count(0)
    finally:
        resume()
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    cards.last.get_by_role("button", name="Use as input").click()
    panel = page.locator(".wl-panel:visible")
    expect(panel).to_be_in_viewport(ratio=0.3)
    expect(panel.locator(".wl-file img:visible").first).to_be_visible()
    assert panel.evaluate("shown => Math.abs(shown.getBoundingClientRect().top) < 300")


def test_in_lab_the_key_runs_the_panel_and_not_the_cell(lab: Server, place: Path, page: Page) -> None:
    write_notebook(place / "notebooks" / "key.ipynb", CELL)
    before = len(list_jobs())
    open_in_lab(page, lab, "key")
    prompt = page.get_by_role("textbox", name="Prompt")
    expect(prompt).to_be_visible()
    count = page.locator(".jp-InputPrompt").first.text_content()
    prompt.fill("an old man with a beard")
    prompt.press("Control+Enter")
    expect(page.locator(".wl-job").first).to_contain_text("an old man with a beard")
    expect(prompt).to_have_value("an old man with a beard")  # the cell would have made the panel anew
    assert page.locator(".jp-InputPrompt").first.text_content() == count
    assert len(list_jobs()) == before + 1
    assert list_jobs()[0].wait(60).state == "succeeded"
