"""Presets and earlier prompts on the page and in Lab, with runs of the pocket models."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import nameless, open_in_lab, picture_of
from tests.browser.servers import Server, write_notebook
from tests.browser.test_dragging import fill, run, the
from wanavatar_lab.jobs import list_jobs

pytestmark = pytest.mark.chromium

PROMPT = "an old man with a beard"
LAB_CELL = """
from wanavatar_lab.requests import TextToImage
from wanavatar_lab.ui.panel import Panel
Panel(TextToImage)
"""


@pytest.fixture(autouse=True, scope="module")
def config(place: Path) -> Iterator[Path]:
    """The servers of this module keep presets here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(place / "config"))
        yield place / "config"


def test_presets_survive_a_reload_and_are_in_lab_too(app: Server, lab: Server, place: Path, page: Page) -> None:
    page.goto(app.url)
    menu = page.locator(".wl-presets:visible")
    the(page, "textbox", "Prompt").fill(PROMPT)
    menu.get_by_text("Presets").click()
    menu.get_by_role("button", name="Quick draft").click()
    expect(the(page, "spinbutton", "Steps")).to_have_value("2")
    expect(the(page, "checkbox", "Upscale 2x")).not_to_be_checked()
    expect(the(page, "textbox", "Prompt")).to_have_value(PROMPT)  # a draft of what is written
    fill(page, "Steps", "1")
    fill(page, "Seed", "9")
    made = run(page, 1)
    assert not (made / "upscaled.png").exists()

    menu.get_by_text("Presets").click()
    name = menu.get_by_role("textbox", name="Name of a new preset")
    name.fill("One step")
    name.press("Enter")
    expect(menu.get_by_role("button", name="One step", exact=True)).to_be_visible()
    menu.get_by_role("button", name="Rename One step").click()
    page.keyboard.type("Old man")
    page.keyboard.press("Enter")
    expect(menu.get_by_role("button", name="Old man", exact=True)).to_be_visible()
    assert nameless(page) == []
    picture_of(page, "presets")
    page.keyboard.press("Escape")
    expect(name).to_be_hidden()

    the(page, "button", "Reset the form").click()
    expect(the(page, "textbox", "Prompt")).to_have_value("")
    page.reload()
    recent = page.locator(".wl-prompts:visible")
    recent.get_by_text("Recent prompts").click()
    recent.get_by_role("searchbox", name="Search prompts").fill("nobody")
    expect(recent.get_by_text("No prompts found.")).to_be_visible()
    recent.get_by_role("searchbox", name="Search prompts").fill("BEARD")
    picture_of(page, "recent-prompts")
    recent.get_by_role("button", name=PROMPT).click()
    expect(the(page, "textbox", "Prompt")).to_have_value(PROMPT)
    expect(the(page, "textbox", "Prompt")).to_be_focused()

    # a file is chosen where one cannot be dropped
    the(page, "textbox", "Prompt").fill("another one")
    for menu_or_gallery in (menu, page.locator(".wl-gallery:visible")):
        if menu_or_gallery is menu:
            menu.get_by_text("Presets").click()
        else:
            the(page, "button", "Reset the form").click()
            page.get_by_role("tab", name="Gallery").click()
        with page.expect_file_chooser() as chooser:
            menu_or_gallery.get_by_role("button", name="Settings from a file…").click()
        chooser.value.set_files(made / "picture.png")
        expect(the(page, "textbox", "Prompt")).to_have_value(PROMPT)
        expect(the(page, "spinbutton", "Seed")).to_have_value("9")

    write_notebook(place / "notebooks" / "presets.ipynb", LAB_CELL)
    open_in_lab(page, lab, "presets")
    menu.get_by_text("Presets").click()
    menu.get_by_role("button", name="Old man", exact=True).click()
    expect(the(page, "textbox", "Prompt")).to_have_value(PROMPT)
    expect(the(page, "spinbutton", "Seed")).to_have_value("9")
    run(page, 2)
    assert (list_jobs()[0].run.folder / "picture.png").read_bytes() == (made / "picture.png").read_bytes()
    menu.get_by_text("Presets").click()
    menu.get_by_role("button", name="Delete Old man").click()
    expect(menu.get_by_text("Deleted Old man")).to_be_visible()
    expect(menu.get_by_role("button", name="Old man", exact=True)).to_have_count(0)
    menu.get_by_role("button", name="Undo").click()
    expect(menu.get_by_role("button", name="Old man", exact=True)).to_be_visible()
    picture_of(page, "presets-lab")
