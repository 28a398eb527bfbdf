"""Files dropped anywhere on a panel arrive in its fields, in Lab and in Voilà."""

import base64
import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Show, nameless, picture_of
from tests.browser.servers import Server
from tests.ui import made_runs

pytestmark = pytest.mark.chromium

CELL = """
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.ui.panel import Panel
Panel(SpeechToVideo, profile="pocket")
"""
# what a browser does when files are dragged over an element and let go there; whether the page takes them
DROP = """([selector, files]) => {
  const data = new DataTransfer();
  for (const [name, text] of files) {
    data.items.add(new File([Uint8Array.from(atob(text), letter => letter.charCodeAt(0))], name));
  }
  const target = document.querySelector(selector);
  const tell = (kind) =>
    !target.dispatchEvent(new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
  const over = tell("dragover");
  const marked = document.querySelector(".wl-panel").classList.contains("wl-over");
  const taken = tell("drop");
  return [over, marked, taken, document.querySelector(".wl-panel").classList.contains("wl-over")];
}"""


def expect_path(field: Locator, label: str, path: str) -> None:
    """The field shows the path of the file that it has, whose name may go on."""
    box = field.get_by_role("textbox", name=f"{label}: File path")
    expect(box).to_have_value(re.compile(re.escape(path)))


def drop(page: Page, selector: str, *files: Path) -> list[bool]:
    sent = [[path.name, base64.b64encode(path.read_bytes()).decode()] for path in files]
    said: list[bool] = page.evaluate(DROP, [selector, sent])
    return said


def test_a_panel_takes_what_is_dropped_on_it(show: Show, page: Page, tmp_path: Path) -> None:
    server = show("drop", CELL)
    face = made_runs.picture(tmp_path / f"face-{server.kind}.png", side=96)
    voice = made_runs.sound(tmp_path / f"voice-{server.kind}.wav", seconds=2.0)
    clip = made_runs.clip(tmp_path / f"clip-{server.kind}.mp4", side=96)
    expect(page.get_by_text("Drop files anywhere on this panel.")).to_be_visible()
    assert drop(page, ".wl-panel-title h3", face, voice) == [True, True, True, False]
    picture, recording = page.locator(".wl-of-image"), page.locator(".wl-of-audio")
    expect_path(picture, "Picture", f"{server.folder}/data/uploads/face-{server.kind}")
    expect(picture.locator(".wl-player img")).to_have_js_property("naturalWidth", 96)
    expect_path(recording, "Voice", f"{server.folder}/data/uploads/voice-{server.kind}")
    expect(recording.get_by_text("2.0 s of 2.0 s")).to_be_visible()
    picture_of(page, f"drop-{server.kind}")

    # a video has a use in three fields: where it is let go says which is meant
    drop(page, ".wl-of-audio .wl-tip", clip)
    expect_path(recording, "Voice", f"{server.folder}/data/uploads/clip-{server.kind}")
    expect_path(picture, "Picture", f"uploads/face-{server.kind}")

    text = tmp_path / "notes.txt"
    text.write_text("no picture")
    assert drop(page, ".wl-panel-foot", text)[2]
    refused = page.get_by_role("alert").filter(has_text="notes.txt ends in .txt; give a file that ends in")
    expect(refused).to_be_visible()
    assert nameless(page) == []
    picture_of(page, f"drop-{server.kind}-refused")


def carry(page: Page, file: Path, x: float, y: float) -> None:
    """Drag a file from the desktop to a place in the window and let it go there, as Chromium hears of it."""
    session = page.context.new_cdp_session(page)
    data = {"items": [], "files": [str(file)], "dragOperationsMask": 1}
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, "x": x, "y": y, "data": data})


def test_what_is_dropped_beside_a_panel_loses_nothing(show: Show, page: Page, tmp_path: Path) -> None:
    server = show("beside", CELL)
    face = made_runs.picture(tmp_path / f"beside-{server.kind}.png", side=96)
    prompt = page.get_by_role("textbox", name="Prompt", exact=True)
    prompt.fill("what was written")
    expect(page.get_by_text("Drop files anywhere on this panel.")).to_be_visible()
    address = page.url
    panel = page.locator(".wl-panel").bounding_box()
    assert panel is not None
    carry(page, face, panel["x"] - 12, panel["y"] + 60)
    picture = page.locator(".wl-of-image")
    if server.kind == "voila":  # where there is nothing that it could be meant for but the one panel in sight
        expect_path(picture, "Picture", f"{server.folder}/data/uploads/beside-voila")
    else:
        page.wait_for_timeout(1000)  # in which a page that is left would be gone
        expect(picture.get_by_role("textbox", name="Picture: File path")).to_have_count(0)
    assert (page.url, page.context.pages) == (address, [page])  # some browsers open the file in another tab
    expect(prompt).to_have_value("what was written")
    picture_of(page, f"drop-{server.kind}-beside")


def test_a_page_that_takes_no_files_stays(app: Server, page: Page, tmp_path: Path) -> None:
    face = made_runs.picture(tmp_path / "face.png", side=96)
    page.goto(app.url)
    prompt = page.get_by_role("textbox", name="Prompt")
    prompt.fill("what was written")
    address = page.url
    box = prompt.bounding_box()
    assert box is not None
    for x, y in ((600, 880), (box["x"] + 20, box["y"] + 20)):  # beside all, and on what is written
        carry(page, face, x, y)
    page.wait_for_timeout(1000)
    assert (page.url, page.context.pages) == (address, [page])  # some browsers open the file in another tab
    expect(prompt).to_have_value("what was written")
