"""A stranger's path on the page: from an empty prompt to a picture, and from that to a clip that talks."""

import re

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import nameless, picture_of
from tests.browser.looking import Keyboard, frame_of, is_blank
from tests.browser.servers import Server
from tests.queue_for_tests import eventually
from wanavatar_lab.jobs import list_jobs

pytestmark = pytest.mark.chromium

RUN = 120_000  # milliseconds that a run may take on a busy machine
PROMPT = "a young woman with light skin, long red hair and glasses, wearing a green sweater, on a blue background"


def test_an_empty_prompt_becomes_a_talking_clip(app: Server, page: Page) -> None:
    page.goto(app.url)
    seen = page.locator(":visible")
    run = page.get_by_role("button", name="Run", exact=True).and_(seen)
    before = len(list_jobs())
    run.click()
    prompt = page.get_by_role("textbox", name="Prompt").and_(seen)
    field = page.locator(".wl-field").filter(has=prompt)
    expect(field.get_by_role("alert")).to_have_text("is empty; give text of 1 to 10000 characters")
    picture_of(page, "stranger-1-empty")
    assert len(list_jobs()) == before

    prompt.fill(PROMPT)
    run.click()
    expect(field.get_by_role("alert")).to_have_count(0)
    card = page.get_by_role("region", name="Text to image").and_(seen)
    expect(card.get_by_text("Done", exact=True)).to_be_visible(timeout=RUN)
    picture = page.get_by_role("img", name="After, 256 × 256").and_(seen)  # over the one before it was enlarged
    expect(picture).to_be_visible()
    page.wait_for_function("picture => picture.naturalWidth === 256", arg=picture.element_handle())
    assert nameless(page) == []
    picture_of(page, "stranger-2-picture")
    made = card.locator(".wl-job-id").inner_text()

    page.get_by_role("tab", name="Gallery").click()
    page.locator(f"[data-run='{made}']").get_by_role("button", name="Use as input").click()
    expect(page.get_by_role("tab", name="Speech to video")).to_have_attribute("aria-selected", "true")
    page.get_by_role("combobox", name="Voice: Sample").and_(seen).select_option(label="english_female.wav")
    end = page.get_by_role("spinbutton", name="To (s)").and_(seen)
    end.fill("1.6")
    end.press("Enter")
    expect(page.get_by_text(re.compile(r"^1\.6 s of "))).to_be_visible()
    picture_of(page, "stranger-3-inputs")
    run.click()
    card = page.get_by_role("region", name="Speech to video").and_(seen)
    expect(card.get_by_text(re.compile(r"step \d+ of 8"))).to_be_visible(timeout=RUN)
    picture_of(page, "stranger-4-running")
    expect(card.get_by_text("Done", exact=True)).to_be_visible(timeout=RUN)

    (job,) = [job for job in list_jobs() if job.id == card.locator(".wl-job-id").inner_text()]
    assert f"/{made}/" in job.run.read_json("request.json")["image"]
    video = page.locator(".wl-player video:visible")
    expect(video).to_have_count(1)
    handle = video.element_handle()
    page.wait_for_function("video => video.readyState >= 2", arg=handle)
    # on a busy machine it is drawn a little later than it is there
    eventually(lambda: not is_blank(frame_of(video)))
    first = frame_of(video)
    video.evaluate("video => video.play()")
    page.wait_for_function("video => video.currentTime > 0.5", arg=handle)
    video.evaluate("video => video.pause()")
    later = frame_of(video)
    assert not is_blank(first) and not is_blank(later)
    assert int(np.abs(first.astype(int) - later.astype(int)).max()) > 30, "nothing moves"
    page.wait_for_function("video => video.currentTime >= 0.5 && Math.abs(video.duration - 1.6) < 0.4", arg=handle)
    assert nameless(page) == []
    picture_of(page, "stranger-5-clip")


def test_by_keyboard_alone(app: Server, page: Page) -> None:
    page.goto(app.url)
    expect(page.get_by_role("textbox", name="Prompt")).to_be_visible()
    person = Keyboard(page)
    first_stage = person.round()
    assert "Run" in [found["name"] for found in first_stage if found["tag"] == "button"]

    person.tab_to("li", "Text to image")
    person.press(*["ArrowRight"] * 4, "Enter")
    expect(page.get_by_role("tab", name="Speech to video")).to_have_attribute("aria-selected", "true")
    run = page.get_by_role("button", name="Run", exact=True).and_(page.locator(":visible"))
    expect(run).to_be_visible()
    person.tab_to("select", "Picture: Sample")
    person.press("ArrowDown")
    expect(page.locator(".wl-player img:visible")).to_have_count(1)
    person.tab_to("select", "Voice: Sample")
    person.press("ArrowDown")
    expect(page.get_by_role("spinbutton", name="To (s)").and_(page.locator(":visible"))).to_have_count(1)
    person.tab_to("input", "To (s)")
    person.press("Control+a")
    page.keyboard.type("1.6")
    person.press("Enter")
    expect(page.get_by_text(re.compile(r"^1\.6 s of "))).to_be_visible()
    picture_of(page, "keyboard-1-inputs")

    # the first run is cancelled, the second one is played
    person.tab_to("button", "Run")
    person.press("Enter")
    card = page.get_by_role("region", name="Speech to video").and_(page.locator(":visible"))
    expect(card).to_be_visible()
    person.tab_to("button", "Cancel")
    person.press("Enter")
    expect(card.get_by_text("Cancelled", exact=True)).to_be_visible(timeout=RUN)
    person.tab_to("button", "Run", key="Shift+Tab")
    person.press("Space")
    expect(card.get_by_text("Cancelled", exact=True)).to_have_count(0)
    expect(card.get_by_text("Done", exact=True)).to_be_visible(timeout=RUN)
    video = page.locator(".wl-player video:visible")
    expect(video).to_have_count(1)
    page.wait_for_function("video => video.readyState >= 2", arg=video.element_handle())
    person.tab_to("video", "Video")
    picture_of(page, "keyboard-2-video")
    person.press("Space")
    page.wait_for_function("video => video.currentTime > 0.3", arg=video.element_handle())
    person.tab_to("button", "Previous frame")
    person.press("Enter")
    page.wait_for_function("video => video.paused", arg=video.element_handle())
    person.press("l")
    expect(page.get_by_role("button", name="Loop").and_(page.locator(":visible"))).to_have_attribute(
        "aria-pressed", "true"
    )
    names = [found["name"] for found in person.round()]
    assert {"Randomise", "Run", "Loop", "Speech to video"} <= set(names)
