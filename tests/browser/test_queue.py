"""The queue and a batch on the page, with real runs of pocket: reordered, paused, and as one strip."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import nameless, picture_of
from tests.browser.servers import Server
from tests.queue_for_tests import eventually
from wanavatar_lab.jobs import Job, cancel_all, is_paused, list_jobs, list_queue, pause, resume, submit
from wanavatar_lab.requests import ImageToVideo, TextToImage

pytestmark = pytest.mark.chromium

RUNS = 120_000  # milliseconds that a few pocket runs may take on a busy machine
DRAWN = "[...document.querySelectorAll('.wl-batch img')]"
PEOPLE = ("a woman with red hair", "an old man with a beard", "a man with brown hair")


@pytest.fixture
def waiting(place: Path) -> Iterator[list[Job]]:
    """Three pictures and a clip that wait in a paused queue."""
    pause()
    jobs = [submit(TextToImage(profile="pocket", prompt=prompt, upscale=False, seed=5)) for prompt in PEOPLE]
    face = place / "data" / "samples" / "avatar_woman.png"
    jobs.append(submit(ImageToVideo(profile="pocket", image=str(face), prompt="she nods", num_inference_steps=1)))
    yield jobs
    cancel_all()
    resume()
    eventually(lambda: not list_queue(), 60)


def order() -> list[str]:
    return [job.id for job in list_queue()]


def test_runs_are_reordered_and_the_queue_is_paused(app: Server, page: Page, waiting: list[Job]) -> None:
    first, second, third, clip = (job.id for job in waiting)
    page.goto(app.url)
    page.get_by_role("button", name="Queue paused: 4").click()
    rows = page.get_by_role("list", name="Waiting runs").get_by_role("listitem")
    expect(rows).to_have_count(4)
    expect(rows.nth(0)).to_contain_text("a woman with red hair")
    expect(rows.nth(3)).to_contain_text("Image to video")
    page.wait_for_function("document.querySelector('.wl-waiting-run:last-child img')?.naturalWidth > 0")
    expect(page.get_by_text("Paused: no run starts until you resume.")).to_be_visible()
    assert nameless(page) == []
    picture_of(page, "queue-paused")

    page.get_by_role("button", name="Run next: she nods").click()
    expect(rows.nth(0)).to_contain_text("she nods")
    assert order() == [clip, first, second, third]
    up = page.get_by_role("button", name="Move up: a man with brown hair")
    up.press("Enter")
    expect(rows.nth(2)).to_contain_text("a man with brown hair")
    expect(up).to_be_focused()  # so that the next press moves it on
    up.press("Alt+Home")
    expect(rows.nth(0)).to_contain_text("a man with brown hair")
    up.press("Alt+ArrowDown")
    expect(rows.nth(1)).to_contain_text("a man with brown hair")
    expect(up).to_be_focused()
    assert order() == [clip, third, first, second]
    box = rows.nth(3).bounding_box()
    assert box is not None
    rows.nth(0).drag_to(rows.nth(3), target_position={"x": 200, "y": box["height"] - 4})
    expect(rows.nth(3)).to_contain_text("she nods")
    assert order() == [third, first, second, clip]
    waiting[1].move("first")  # by another client
    expect(rows.nth(0)).to_contain_text("an old man")

    page.get_by_role("button", name="Cancel: she nods").click()
    expect(rows).to_have_count(3)
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("Paused: no run")).to_have_count(0)
    assert not is_paused()
    starts = [job.wait(RUNS / 1000).started_at or 0.0 for job in (waiting[1], waiting[2], waiting[0])]
    assert starts == sorted(starts) and waiting[3].status().state == "cancelled"
    expect(rows).to_have_count(0)
    expect(page.get_by_role("button", name=re.compile("Queue"))).to_have_count(0)


def test_a_batch_is_one_strip_with_a_seed_each(app: Server, page: Page) -> None:
    before = {job.id for job in list_jobs()}
    page.goto(app.url)
    page.get_by_role("textbox", name="Prompt").fill("a woman with red hair")
    page.get_by_role("spinbutton", name="Seed").fill("4294967294")
    count = page.get_by_role("spinbutton", name="How many")
    count.fill("99")
    count.press("Tab")
    expect(page.get_by_text("must be an integer from 1 to 32")).to_be_visible()
    count.fill("3")
    count.press("Control+Enter")
    strip = page.locator(".wl-batch")
    expect(strip.get_by_text("0 of 3 finished")).to_be_visible()
    expect(page.locator(".wl-job:visible")).to_have_count(1)
    picture_of(page, "batch-running")
    expect(strip.get_by_text("3 of 3 finished")).to_be_visible(timeout=RUNS)
    expect(strip.locator(".wl-history-seed")).to_have_text(["4294967294", "4294967295", "0"])
    page.wait_for_function(
        "[...document.querySelectorAll('.wl-batch img')].filter((each) => each.naturalWidth > 0).length === 3"
    )
    made = [job for job in list_jobs() if job.id not in before]
    assert len({(job.run.folder / "picture.png").read_bytes() for job in made}) == 3
    strip.get_by_role("button").filter(has_text="4294967295").click()
    expect(strip.get_by_text("seed 4294967295")).to_be_visible()
    (second,) = (job for job in made if job.status().seed == 4294967295)
    expect(page.locator(".wl-job:visible").get_by_text(second.id)).to_be_visible()
    assert nameless(page) == []
    picture_of(page, "batch-done")
