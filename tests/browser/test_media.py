"""Clips, pictures and sound are played by URL, in Lab and in Voilà."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Show, nameless, picture_of
from tests.ui import made_runs

pytestmark = pytest.mark.chromium

PLAYER = """
from wanavatar_lab.ui.player import Compare, Player
from wanavatar_lab.ui.sweep import ContactSheet
from wanavatar_lab.ui.waveform import Waveform
from ipywidgets import VBox
folder = "../runs/media/"
sheet = ContactSheet(["seed 1", "seed 2"], ["guidance 4.5", "guidance 5.5"])
for row, column, name in ((0, 0, "small.png"), (0, 1, "large.png"), (1, 0, "talking.mp4")):
    sheet.fill(row, column, folder + name)
VBox([
    Player(folder + "talking.mp4"),
    Player(folder + "talking.mp4", folder + "other.mp4", labels=("25 steps", "4 steps")),
    Compare(folder + "small.png", folder + "large.png"),
    Waveform("../data/samples/korean.wav"),
    sheet,
])
"""
# the share of pixels that differ from the first one, of the frame that a video shows now
FRAME = """video => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  const context = canvas.getContext("2d");
  context.drawImage(video, 0, 0);
  const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
  let different = 0;
  for (let i = 4; i < data.length; i += 4) {
    if (Math.abs(data[i] - data[0]) + Math.abs(data[i + 1] - data[1]) > 24) different += 1;
  }
  return different / (data.length / 4);
}"""

IN_SYNC = """() => {
  const [a, b] = [...document.querySelectorAll(".wl-player video")].slice(1, 3);
  return !b.seeking && Math.abs(a.currentTime - b.currentTime) < 0.07;
}"""


@pytest.fixture
def media(place: Path) -> Path:
    folder = place / "runs" / "media"
    made_runs.clip(folder / "talking.mp4")
    made_runs.clip(folder / "other.mp4", hair="#3a2a1a", back="#e8d9b0")
    made_runs.picture(folder / "small.png", side=128)
    made_runs.picture(folder / "large.png", side=512)
    return folder


def test_media_play_step_and_compare(show: Show, page: Page, media: Path, request: pytest.FixtureRequest) -> None:
    server = show("media", PLAYER)
    player = page.locator(".wl-player").first
    clip = player.locator("video")
    clip.scroll_into_view_if_needed()
    expect(player.get_by_text("frame 1 of 32")).to_be_visible()
    clip.evaluate("video => video.play()")
    page.wait_for_function("document.querySelector('.wl-player video').currentTime > 0.5")
    clip.evaluate("video => video.pause()")
    assert clip.evaluate(FRAME) > 0.2

    clip.evaluate("video => { video.currentTime = 1.03 }")  # inside frame 17, counted from 1
    expect(player.get_by_text("frame 17 of 32")).to_be_visible()
    player.get_by_role("button", name="Next frame").click()
    expect(player.get_by_text("frame 18 of 32")).to_be_visible()
    page.keyboard.press(",")
    page.keyboard.press(",")
    expect(player.get_by_text("frame 16 of 32")).to_be_visible()
    loop = player.get_by_role("button", name="Loop")
    page.keyboard.press("l")
    expect(loop).to_have_attribute("aria-pressed", "true")
    assert clip.evaluate("video => video.loop")
    wave = player.get_by_role("img", name="Waveform")
    wave.click(position={"x": 2, "y": 10})
    expect(player.get_by_text("frame 1 of 32")).to_be_visible()

    first, second = page.locator(".wl-player").nth(1).locator("video").all()
    first.evaluate("video => video.play()")
    page.wait_for_function("document.querySelectorAll('.wl-player video')[2].currentTime > 0.3")
    first.evaluate("video => video.pause()")
    page.wait_for_function(IN_SYNC)
    assert second.evaluate(FRAME) > 0.2

    edge = page.get_by_role("slider", name="Edge between before and after")
    edge.focus()
    before = float(edge.input_value())
    page.keyboard.press("ArrowRight")
    assert float(edge.input_value()) > before
    assert page.get_by_role("img", name="After, 512 × 512").evaluate("picture => picture.naturalWidth") == 512

    start = page.get_by_role("spinbutton", name="From (s)")
    start.fill("1.5")
    start.press("Tab")
    expect(page.get_by_text("4.3 s of 5.8 s")).to_be_visible()
    page.get_by_role("button", name="Play selection").click()
    page.wait_for_function("document.querySelector('.wl-wave audio').currentTime > 1.6")
    page.get_by_role("button", name="Whole recording").click()
    expect(page.get_by_text("5.8 s of 5.8 s")).to_be_visible()

    expect(page.get_by_role("columnheader", name="guidance 5.5")).to_be_visible()
    expect(page.get_by_text("Not generated yet")).to_be_visible()
    assert nameless(page) == []
    for number, selector in enumerate((".wl-player", ".wl-compare", ".wl-wave", ".wl-sheet")):
        page.locator(selector).first.scroll_into_view_if_needed()
        page.wait_for_timeout(150)
        picture_of(page, f"media-{server.kind}-{number}")
