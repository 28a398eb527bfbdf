"""The page that `make web` serves: gallery, language, runs under way, and what it says when nobody is behind it."""

import os
import signal
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import nameless, picture_of
from tests.browser.servers import Server, start_voila
from tests.queue_for_tests import eventually
from tests.stages_for_tests import Relax
from tests.ui import made_runs
from wanavatar_lab.jobs import Job, submit
from wanavatar_lab.requests import SpeechToVideo, TextToImage, Upscale

pytestmark = pytest.mark.chromium

PLACE = "part => { const box = part.getBoundingClientRect(); return [box.x, box.y + scrollY]; }"


@pytest.fixture
def runs(place: Path, tmp_path: Path) -> list[str]:
    face = made_runs.picture(tmp_path / "picture.png")
    large = made_runs.picture(tmp_path / "upscaled.png", side=512)
    voice = made_runs.sound(tmp_path / "voice.wav")
    clip = made_runs.clip(tmp_path / "talking.mp4")
    sailor = TextToImage(prompt="a sailor with red hair on a blue background")
    first = made_runs.ended_run(sailor, [("picture", face)], ago=300)
    second = made_runs.ended_run(Upscale(image=str(first.folder / face.name)), [("picture", large)], ago=200)
    third = made_runs.ended_run(
        SpeechToVideo(image=str(second.folder / large.name), audio=str(voice), prompt="she greets a friend"),
        [("talking", clip)],
        ago=100,
    )
    made_runs.ended_run(TextToImage(prompt="a picture that failed"), state="failed", ago=50)
    return [first.id, second.id, third.id]


@pytest.fixture
def gallery(app: Server, runs: list[str], page: Page) -> Server:
    page.goto(app.url)
    page.get_by_role("tab", name="Gallery").click()
    return app


def test_the_gallery_finds_deletes_and_copies(gallery: Server, page: Page, runs: list[str]) -> None:
    picture, large, clip = (page.locator(f"[data-run='{run_id}']") for run_id in runs)
    expect(clip.get_by_text("she greets a friend")).to_be_visible()
    page.wait_for_function(
        "run => document.querySelector(`[data-run='${run}'] img`)?.naturalWidth === 256", arg=runs[0]
    )
    page.wait_for_function("run => document.querySelector(`[data-run='${run}'] video`)?.readyState > 1", arg=runs[2])
    assert nameless(page) == []
    picture_of(page, "page-gallery")

    search = page.get_by_role("searchbox", name="Search prompts")
    search.fill("sailor")
    expect(clip).to_have_count(0)
    expect(picture).to_be_visible()
    search.fill("")
    page.get_by_role("combobox", name="Show").select_option(label="talking clips")
    expect(picture).to_have_count(0)
    expect(clip).to_be_visible()
    page.get_by_role("combobox", name="Show").select_option(label="everything")
    picture.get_by_role("button", name="Made from 0, used in 1").click()
    expect(large).to_be_visible()
    expect(clip).to_have_count(0)
    page.get_by_role("button", name="Show all runs").click()

    picture.get_by_text("More", exact=True).click()
    expect(picture.get_by_role("button", name="Run again")).to_be_visible()
    picture_of(page, "page-gallery-menu")
    picture.get_by_role("button", name="Python").click()
    expect(page.get_by_role("textbox", name="Python")).to_have_value(
        "from wanavatar_lab import jobs\nfrom wanavatar_lab.requests import TextToImage\n\n"
        "job = jobs.submit(TextToImage(\n    profile='full',\n"
        "    prompt='a sailor with red hair on a blue background',\n    seed=7,\n))\n"
        "artifacts = await job.result()\n"
    )
    picture_of(page, "page-gallery-copy")
    page.get_by_role("button", name="Close").click()

    large.get_by_text("More", exact=True).press("Enter")
    large.get_by_role("button", name="Delete").press("Enter")
    expect(large).to_have_count(0)
    expect(page.get_by_text(f"Deleted {runs[1]}")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(large).to_be_visible()


def test_it_switches_language_and_shows_in_the_dark(gallery: Server, page: Page, runs: list[str]) -> None:
    search = page.get_by_role("searchbox", name="Search prompts")
    search.fill("failed")
    expect(page.get_by_text("no result", exact=True).first).to_be_visible()
    page.get_by_role("combobox", name="Language").select_option("ko")
    expect(page.get_by_role("tab", name="갤러리")).to_be_visible()
    search = page.get_by_role("searchbox", name="프롬프트 검색")
    expect(search).to_have_value("failed")
    expect(page.get_by_text("결과 없음", exact=True).first).to_be_visible()
    expect(page.get_by_text("no result", exact=True)).to_have_count(0)
    expect(page.locator("html")).to_have_attribute("lang", "ko")
    page.get_by_role("combobox", name="언어").select_option("zh")
    expect(page.get_by_role("combobox", name="语言")).to_be_visible()
    assert nameless(page) == []
    page.goto(f"{gallery.url}/?theme=dark")
    page.get_by_role("tab", name="作品库").click()
    expect(page.locator(f"[data-run='{runs[0]}'] img")).to_be_visible()
    page.wait_for_timeout(500)
    picture_of(page, "page-gallery-dark")


def test_the_head_stays_in_its_place_on_every_tab(app: Server, page: Page) -> None:
    page.goto(app.url)
    expect(page.get_by_role("tab")).to_have_count(9)
    places = set()
    for tab in page.get_by_role("tab").all():
        tab.click()
        expect(tab).to_have_attribute("aria-selected", "true")
        expect(page.locator(".widget-tab-contents > :visible").first).to_be_visible()
        head = page.get_by_role("heading", level=1), page.get_by_role("combobox", name="Language").first
        places.add(str([part.evaluate(PLACE) for part in (*head, page.get_by_role("tablist"))]))
    assert len(places) == 1, "a scroll bar or a longer text moves it"


def test_the_help_of_a_field_opens_at_a_click(app: Server, page: Page) -> None:
    page.goto(app.url)
    help_of_seed, text = page.get_by_label("Help: Seed"), page.get_by_text("-1 draws a random seed")
    help_of_seed.click()
    expect(text).to_be_visible()
    picture_of(page, "page-help")
    page.get_by_role("textbox", name="Prompt").click()
    expect(text).to_be_hidden()
    help_of_seed.press("Enter")
    expect(text).to_be_visible()
    page.keyboard.press("Escape")
    expect(text).to_be_hidden()
    expect(help_of_seed).to_be_focused()


def test_runs_under_way_are_there_after_a_reload(gallery: Server, page: Page) -> None:
    job: Job = submit(Relax(profile="pocket", steps=1000, step_seconds=0.2))  # longer than a busy machine needs
    card = page.get_by_role("region", name="Relax").filter(has_text=job.id)
    expect(card.get_by_text("Running", exact=True)).to_be_visible()
    kernels = gallery.kernels()
    page.reload()
    page.get_by_role("tab", name="Gallery").click()
    eventually(lambda: not kernels <= gallery.kernels())  # the kernel of a page that was left ends with it
    expect(card.get_by_text("Running", exact=True)).to_be_visible()
    picture_of(page, "page-running")
    card.get_by_role("button", name="Cancel").click()
    expect(page.locator(f"[data-run='{job.id}']").get_by_text("Cancelled", exact=True)).to_be_visible()
    expect(card).to_have_count(0)


def test_a_server_that_is_gone_is_said(place: Path, page: Page) -> None:
    server = start_voila(place, {}, "app.ipynb")
    try:
        page.goto(server.url)
        expect(page.get_by_role("combobox", name="Language")).to_be_visible()
        os.killpg(server.process.pid, signal.SIGKILL)
        expect(page.get_by_role("alert").filter(has_text="The server does not answer")).to_be_visible()
        expect(page.get_by_role("button", name="Reload")).to_be_visible()
        picture_of(page, "page-server-gone")
    finally:
        server.stop()
