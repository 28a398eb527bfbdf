"""The tab of the tools: a clip is cut there, and what it gives is taken by another tool and by a stage."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import nameless, picture_of
from tests.browser.servers import Server
from tests.tools.clips import video
from wanavatar_lab.media import probe
from wanavatar_lab.requests import TOOLS
from wanavatar_lab.runs.run import list_runs

pytestmark = pytest.mark.chromium


def test_a_clip_is_cut_and_its_sound_extracted(app: Server, page: Page, tmp_path: Path) -> None:
    clip = video(tmp_path / "clip.mp4", 48, 16, tone=440)
    page.goto(app.url)
    page.get_by_role("tab", name="Tools", exact=True).click()
    choice = page.get_by_role("combobox", name="Tool", exact=True)
    expect(choice.locator("option")).to_have_text([tool.labels["en"] for tool in TOOLS])
    choice.select_option(label="Trim")
    panel = page.locator(".wl-panel:visible")
    expect(panel.get_by_role("heading", name="Trim")).to_be_visible()
    assert nameless(page) == []

    panel.get_by_role("combobox", name="Sound or video", exact=True).select_option(label="File path")
    path = panel.get_by_role("textbox", name="Sound or video: File path")
    path.fill(str(clip))
    path.press("Enter")
    panel.get_by_role("spinbutton", name="Start (s)").fill("0.5")
    panel.get_by_role("checkbox", name="Duration: automatic").uncheck()
    panel.get_by_role("spinbutton", name="Duration (s)").fill("1.5")
    panel.get_by_role("button", name="Run", exact=True).click()
    made = panel.locator(".wl-panel-made video").first
    expect(made).to_have_js_property("duration", 1.5)
    picture_of(page, "tools-trim")
    (cut,) = list_runs(app.folder / "runs")
    assert probe(cut.folder / "clip.mp4").frames == 24

    # the result is sent on to another tool, and later to a stage
    panel.get_by_text("Use in").click()
    panel.get_by_role("button", name="Extract audio", exact=True).click()
    panel = page.locator(".wl-panel:visible")
    expect(panel.get_by_role("heading", name="Extract audio")).to_be_visible()
    expect(choice).to_have_value("Extract audio")
    panel.get_by_role("button", name="Run", exact=True).click()
    expect(panel.locator(".wl-panel-made audio").first).to_be_visible()
    voice, _ = list_runs(app.folder / "runs")
    assert voice.manifest()["parents"] == [cut.id]
    choice.select_option(label="Trim")
    expect(page.locator(".wl-panel:visible").get_by_role("spinbutton", name="Start (s)")).to_have_value("0.5")
    page.get_by_role("tab", name="Speech to video").click()
    field = page.locator(".wl-panel:visible .wl-of-audio")
    field.get_by_role("combobox", name="Voice", exact=True).select_option(label="Earlier result")
    earlier = field.get_by_role("combobox", name="Voice: Earlier result")
    expect(earlier.locator("option")).to_have_count(3)
