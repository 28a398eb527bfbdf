"""The card of a real run in a notebook: it progresses, cancels, and is there again after a reload."""

import re
import time

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Show, nameless, open_in_lab, picture_of
from tests.browser.servers import Server
from tests.queue_for_tests import eventually, steps_done
from wanavatar_lab.jobs import list_jobs

pytestmark = pytest.mark.chromium

# shows the run that is under way, as a panel does, or submits one
CELL = """
from tests.stages_for_tests import Relax
from wanavatar_lab import jobs
from wanavatar_lab.ui.job_card import JobCard
going = [job for job in jobs.list_jobs() if not job.status().ended]
job = going[0] if going else jobs.submit(Relax(profile="pocket", steps=600, step_seconds=0.05, seed=3))
JobCard(job.id)
"""


def test_a_run_progresses_is_attached_again_and_cancelled(show: Show, page: Page) -> None:
    server = show("job", CELL)
    card = page.get_by_role("region", name="Relax")
    expect(card.get_by_text("Running", exact=True)).to_be_visible()
    expect(card.get_by_text(re.compile(r"step \d+ of 600"))).to_be_visible()
    bar = card.get_by_role("progressbar", name="Progress of Relax")
    first = float(bar.get_attribute("value") or 0)
    page.wait_for_function("before => document.querySelector('.wl-job progress').value > before", arg=first)
    expect(card.get_by_text("elapsed")).to_contain_text("memory")
    assert nameless(page) == []
    picture_of(page, f"job-{server.kind}-running")
    (job,) = [job for job in list_jobs() if not job.status().ended]

    reopen(page, server)
    card = page.get_by_role("region", name="Relax")
    expect(card.get_by_text(job.id)).to_be_visible()
    expect(card.get_by_text("Running", exact=True)).to_be_visible()

    cancel = card.get_by_role("button", name="Cancel")
    begin = time.monotonic()
    cancel.click()
    expect(card.get_by_role("button", name="Cancelling…").or_(card.get_by_text("Cancelled"))).to_be_visible()
    acknowledged = time.monotonic() - begin
    expect(card.get_by_text("Cancelled", exact=True)).to_be_visible()
    status = eventually(lambda: (status := job.status()).ended and status)
    assert status.state == "cancelled" and steps_done(job) < 600
    print(f"{server.kind}: acknowledged in {1000 * acknowledged:.0f} ms with the test's own clicking and looking")
    card.get_by_text("Log", exact=True).click()
    expect(card.get_by_text("from below Python")).to_be_visible()
    picture_of(page, f"job-{server.kind}-cancelled")


def reopen(page: Page, server: Server) -> None:
    """Come back as after an accident: Voilà starts another kernel, Lab's notebook is run anew."""
    if server.kind == "voila":
        page.reload()
    else:
        open_in_lab(page, server, "job")
