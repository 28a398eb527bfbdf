"""Stages in a row in a notebook: a card each, which can be cancelled while the cell that waits for them goes on."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import nameless, open_in_lab, picture_of
from tests.browser.servers import Server, write_notebook
from tests.queue_for_tests import let_go
from wanavatar_lab.jobs import list_jobs

pytestmark = pytest.mark.chromium

CELL = """
from tests.stages_for_tests import Relax
from wanavatar_lab.pipeline import Link
from wanavatar_lab.errors import LabError
from wanavatar_lab.ui.pipeline_cards import follow
links = [
    Link("a.npy", Relax(profile="pocket", steps=4, hold_at=2)),
    Link("b.npy", Relax(profile="pocket", steps=600, step_seconds=0.05), {"start": "a.npy"}),
    Link("c.npy", Relax(profile="pocket"), {"start": "b.npy"}),
]
try:
    await follow(links, True)
except LabError as error:
    print(error)
"""


def test_each_stage_has_a_card_and_is_cancelled_on_it(lab: Server, place: Path, page: Page) -> None:
    write_notebook(place / "notebooks" / "chain.ipynb", CELL)
    open_in_lab(page, lab, "chain")
    cards = page.get_by_role("region", name="Relax")
    expect(cards).to_have_count(3)
    expect(cards.nth(0).get_by_text("Running", exact=True)).to_be_visible()
    for later in (1, 2):
        expect(cards.nth(later).get_by_text("Pending", exact=True)).to_be_visible()
    assert nameless(page) == []
    picture_of(page, "chain-first")
    (first,) = [job for job in list_jobs() if not job.status().ended]
    let_go(first)
    expect(cards.nth(0).get_by_text("Done", exact=True)).to_be_visible()
    expect(cards.nth(1).get_by_text(re.compile(r"step \d+ of 600"))).to_be_visible()
    expect(cards.nth(1).get_by_text(re.compile("about .* left"))).to_be_visible()
    picture_of(page, "chain-second")

    # while the cell waits, which no other cell could interrupt
    cards.nth(1).get_by_role("button", name="Cancel").click()
    expect(cards.nth(1).get_by_text("Cancelled", exact=True)).to_be_visible()
    expect(page.get_by_text(re.compile("relax was cancelled")).first).to_be_visible()
    expect(cards).to_have_count(2)  # the turn of the third does not come any more
    picture_of(page, "chain-cancelled")
