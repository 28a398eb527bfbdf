"""Favourites and tags of real runs, in Lab and on a page: kept, filtered by, and set for several runs at once."""

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Show, nameless, picture_of
from tests.browser.looking import WHOLE
from wanavatar_lab.jobs import list_jobs, submit
from wanavatar_lab.requests import ImageToVideo, TextToImage
from wanavatar_lab.runs.marks import read_marks
from wanavatar_lab.runs.run import list_runs

pytestmark = pytest.mark.chromium

CELL = """
from wanavatar_lab.ui.gallery_panel import GalleryPanel
GalleryPanel()
"""


@pytest.fixture(autouse=True, scope="module")
def drawn(place: Path) -> None:
    """Three pictures and a clip, of pocket models."""
    for hair in ("red", "black", "blond"):
        request = TextToImage(
            profile="pocket", prompt=f"a woman with {hair} hair", num_inference_steps=1, upscale=False, seed=3
        )
        job = submit(request)
        job.wait(120)
    picture = str(job.run.folder / "picture.png")
    clip = ImageToVideo(profile="pocket", image=picture, frame_num=9, num_inference_steps=1, prompt="she nods")
    submit(clip).wait(120)


def test_runs_are_marked_and_found_by_it(show: Show, page: Page) -> None:
    for job in list_jobs():
        (job.run.folder / "marks.json").unlink(missing_ok=True)
    server = show("marks", CELL)
    cards = page.locator(".wl-gallery li")
    expect(cards).to_have_count(4)
    black = cards.filter(has_text="black hair")
    black.hover()
    star = black.get_by_role("button", name="a woman with black hair: Favourite")
    star.click()
    expect(star).to_have_attribute("aria-pressed", "true")
    red = cards.filter(has_text="red hair")
    red.get_by_text("More").click()
    red.get_by_role("button", name="Tags…").click()
    page.keyboard.type("Ann, close up")
    page.keyboard.press("Enter")
    expect(red.get_by_role("button", name="close up")).to_be_visible()

    page.get_by_role("button", name="Favourites").click()
    # as lists, which wait for the number of cards and their texts at once
    expect(cards).to_contain_text(["black hair"])
    page.get_by_role("button", name="Favourites").click()
    page.get_by_role("combobox", name="Tag").select_option("Ann")
    expect(cards).to_contain_text(["red hair"])
    page.get_by_role("combobox", name="Tag").select_option(label="any")
    expect(cards).to_have_count(4)

    page.get_by_role("button", name="Select", exact=True).click()
    red.locator(".wl-listing-picture").click()  # in whose place it would be opened
    black.get_by_role("checkbox").check()
    expect(page.get_by_text("2 selected")).to_be_visible()
    assert len(page.context.pages) == 1
    page.get_by_role("combobox", name="Tags, separated by commas").fill("both")
    page.get_by_role("button", name="Add tags").click()
    expect(page.get_by_role("button", name="both", exact=True)).to_have_count(2)
    picture_of(page, f"marks-{server.kind}")
    assert nameless(page) == []
    pictures = [run for run in list_runs() if run.stage == "text_to_image"]
    marks = {run.request().prompt.split()[3]: read_marks(run) for run in pictures}  # type: ignore[attr-defined]
    assert (marks["red"].tags, marks["black"].tags, marks["blond"].tags) == (("Ann", "close up", "both"), ("both",), ())
    assert [name for name in marks if marks[name].favourite] == ["black"]

    page.get_by_role("button", name="Delete", exact=True).and_(page.locator(".wl-gallery-selected *")).click()
    expect(cards).to_have_count(2)
    expect(page.get_by_text("Deleted 2 runs")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(cards).to_have_count(4)
    expect(page.get_by_role("button", name="both", exact=True)).to_have_count(2)


def test_results_on_another_disk_have_their_pictures(show: Show, place: Path, page: Page, tmp_path: Path) -> None:
    for run in list_runs():
        shutil.copytree(run.folder, tmp_path / "elsewhere" / run.id)
    environ = f"import os\nos.environ['WANAVATAR_RUNS_DIR'] = {str(tmp_path / 'elsewhere')!r}\n"
    server = show("another_disk", environ + CELL)
    cards = page.locator(".wl-gallery li")
    expect(cards).to_have_count(4)
    page.wait_for_function("[...document.querySelectorAll('.wl-gallery li img')].every((each) => each.naturalWidth)")
    assert all(cards.nth(index).locator("img").evaluate(WHOLE) for index in range(4))
    clip = cards.filter(has_text="Image to video")
    clip.get_by_role("button", name="Play Image to video").click()
    expect(clip.locator("video")).to_be_focused()
    page.wait_for_function("video => video.currentTime > 0", arg=clip.locator("video").element_handle())
    picture_of(page, f"another-disk-{server.kind}")

    cards.filter(has_text="red hair").get_by_role("button", name="Use as input").click()
    panel = page.locator(".wl-panel")
    expect(panel.locator(".wl-of-image .wl-player img")).to_have_js_property("naturalWidth", 128)
    strip = panel.locator(".wl-of-image")
    strip.get_by_role("combobox", name="Picture", exact=True).select_option(label="Earlier result")
    expect(strip.locator(".wl-history-item img:visible").first).to_have_js_property("naturalWidth", 128)
    assert nameless(page) == []
    panel.get_by_role("combobox", name="Voice: Sample").select_option(label="english_female.wav")
    panel.get_by_role("button", name="Run", exact=True).click()
    expect(panel.locator(".wl-job-thumbnail")).to_have_js_property("naturalWidth", 128)
    expect(panel.locator(".wl-job-preview")).to_have_js_property("naturalWidth", 128, timeout=120_000)
    picture_of(page, f"another-disk-running-{server.kind}")
    panel.get_by_role("button", name="Cancel").click()
    expect(panel.locator(".wl-job-state")).to_have_text("Cancelled")
