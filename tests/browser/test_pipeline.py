"""The form of all stages in a row, with real runs of pocket."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import nameless, open_in_lab, picture_of
from tests.browser.servers import Server, write_notebook
from wanavatar_lab.jobs import list_jobs

pytestmark = pytest.mark.chromium
RUNS = 240_000  # milliseconds that the four stages may take on a busy machine
DRAWN = """() => {
  const shown = [...document.querySelectorAll(".wl-step :is(img, video)")];
  return shown.length === 4 && shown.every((each) => (each.naturalWidth ?? each.videoWidth) > 0);
}"""
TALKING = """() => {
  const clip = document.querySelector(".wl-pipeline .wl-panel-made .wl-player video");
  return clip && decodeURI(clip.src).includes("talking.mp4") && clip.videoWidth === 128 && clip.duration > 4.9;
}"""


def test_a_sentence_and_a_voice_become_four_results(app: Server, page: Page) -> None:
    before = {job.id for job in list_jobs()}
    page.goto(app.url)
    page.get_by_role("tab", name="Pipeline").click()
    form = page.locator(".wl-pipeline")
    form.get_by_role("textbox", name="Prompt").fill("a young woman with long red hair, on a blue background")
    form.get_by_role("textbox", name="Motion").fill("she nods")
    form.get_by_role("spinbutton", name="Seed").fill("1")
    form.get_by_role("button", name="Run all stages").click()
    expect(form.get_by_role("alert").filter(has_text="is required, unless a recording is given")).to_be_visible()
    assert {job.id for job in list_jobs()} == before  # all that is missing is said before the first stage runs
    form.get_by_role("combobox", name="Voice: Sample").select_option(label="english_female.wav")
    form.get_by_role("textbox", name="Prompt").press("Control+Enter")
    stages = form.get_by_role("list", name="Stages").get_by_role("button")
    expect(stages).to_have_count(5)
    expect(form.get_by_text(re.compile("About .* left for all"))).to_be_visible()
    page.wait_for_function("document.querySelectorAll('.wl-step[data-state=succeeded]').length === 5", timeout=RUNS)
    page.wait_for_function(DRAWN)
    page.wait_for_function(TALKING)  # where the clip of the stage before was until now
    box = form.locator(".wl-panel-made .wl-player video").bounding_box()
    assert box is not None and box["width"] > 400 and box["height"] > 400
    assert box["y"] >= 0 and box["y"] + box["height"] <= 900  # all of it is in the window
    assert nameless(page) == []
    picture_of(page, "pipeline-form")

    first = {job.run.stage: job.id for job in list_jobs() if job.id not in before}
    assert len(first) == 4
    form.get_by_role("button", name="2. Upscale").click()
    form.get_by_role("button", name="Run again").click()
    again = page.locator(".wl-step[data-state=succeeded]")
    expect(again).to_have_count(4)
    expect(again).to_have_count(5, timeout=RUNS)
    later = [job for job in list_jobs() if job.id not in before | set(first.values())]
    assert [job.run.stage for job in later] == ["upscale"]
    assert later[0].run.manifest()["parents"] == [first["text_to_image"]]
    form.get_by_role("button", name="1. Text to image").click()
    form.get_by_role("button", name="Change…").click()
    expect(form.get_by_role("textbox", name="Prompt")).to_have_count(2)
    form.get_by_role("button", name="Close").click()
    expect(form.get_by_role("textbox", name="Prompt")).to_have_count(1)


def test_the_form_of_all_stages_is_drawn_in_a_notebook(lab: Server, place: Path, page: Page) -> None:
    cell = "from wanavatar_lab.ui.pipeline import Pipeline\nPipeline(prompt='a man with brown hair')"
    write_notebook(place / "notebooks" / "all.ipynb", cell)
    open_in_lab(page, lab, "all")
    expect(page.get_by_role("textbox", name="Prompt")).to_have_value("a man with brown hair")
    expect(page.get_by_role("list", name="Stages").get_by_role("button")).to_have_count(5)
    assert nameless(page) == []
    picture_of(page, "pipeline-form-lab")
