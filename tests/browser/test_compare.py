"""Two of the gallery beside each other: chosen on their cards, played as one, ended by Escape."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import nameless, picture_of
from tests.browser.looking import Keyboard
from tests.browser.servers import Server
from tests.ui import made_runs
from wanavatar_lab.requests import SpeechToVideo, TextToImage, Upscale

pytestmark = pytest.mark.chromium

SMALL = 640  # pixels
SECONDS = 4.0  # of the clips
FRAME = 1 / made_runs.FPS
# where both clips are, at every frame that the browser draws in so many milliseconds
BOTH = """milliseconds => new Promise(resolve => {
  const [first, second] = document.querySelectorAll(".wl-gallery-compared video");
  const seen = [];
  const end = performance.now() + milliseconds;
  const look = () => {
    seen.push([first.currentTime, second.currentTime]);
    if (performance.now() < end) requestAnimationFrame(look);
    else resolve(seen);
  };
  look();
})"""
READY = """() => {
  const clips = [...document.querySelectorAll(".wl-gallery-compared video")];
  return clips.length === 2 && clips.every(clip => clip.readyState >= 3 && !clip.seeking);
}"""

BEGUN = "[...document.querySelectorAll('.wl-gallery-compared video')].every(clip => clip.currentTime > 0)"


@pytest.fixture
def runs(place: Path, tmp_path: Path) -> dict[str, str]:
    """Ids by what was made: two clips that differ by their steps, a picture and the larger one made of it."""
    face, large = made_runs.picture(tmp_path / "picture.png"), made_runs.picture(tmp_path / "upscaled.png", side=512)
    voice = made_runs.sound(tmp_path / "voice.wav")
    looks: tuple[dict[str, str], ...] = ({}, {"hair": "#3a2a1a", "back": "#e8d9b0"})
    source = made_runs.ended_run(TextToImage(prompt="a sailor with red hair"), [("picture", face)], ago=400)
    picture = source.folder / face.name
    made = {"picture": source, "large": made_runs.ended_run(Upscale(image=str(picture)), [("picture", large)], ago=300)}
    for steps, look in zip((8, 40), looks, strict=True):
        prompt = f"she greets a friend in {steps} steps"
        request = SpeechToVideo(image=str(picture), audio=str(voice), prompt=prompt, num_inference_steps=steps)
        clip = made_runs.clip(tmp_path / str(steps) / "talking.mp4", SECONDS, side=256, **look)
        made[f"{steps} steps"] = made_runs.ended_run(request, [("talking", clip)], ago=100 + steps)
    return {name: run.id for name, run in made.items()}


@pytest.fixture
def gallery(app: Server, runs: dict[str, str], page: Page) -> Server:
    page.goto(app.url)
    page.get_by_role("tab", name="Gallery").click()
    return app


def card(page: Page, run_id: str) -> Locator:
    return page.locator(f"[data-run='{run_id}']")


def test_two_clips_play_as_one(gallery: Server, page: Page, runs: dict[str, str]) -> None:
    few, many, picture = (card(page, runs[name]) for name in ("8 steps", "40 steps", "picture"))
    both = page.get_by_role("region", name="Comparison")
    few.get_by_role("button", name="Compare", exact=False).click()
    expect(page.get_by_role("status").filter(has_text="is selected")).to_be_visible()
    expect(few.get_by_role("button", name="Stop comparing")).to_be_visible()
    expect(few).to_have_class(re.compile("wl-chosen"))
    expect(picture.get_by_role("button", name="Compare")).to_have_count(0)  # it is of another kind
    assert nameless(page) == []
    picture_of(page, "compare-chosen-1200")
    many.get_by_role("button", name="Compare with this").click()
    captions = both.locator("figcaption")
    expect(captions).to_have_text([re.compile(r", Steps 8 \(sound on\)$"), re.compile(", Steps 40$")])
    page.wait_for_function(READY)
    assert nameless(page) == []

    both.get_by_role("button", name="Play").click()
    page.wait_for_function(BEGUN)
    seen = page.evaluate(BOTH, 1500)
    for clip in range(2):
        assert seen[-1][clip] - seen[0][clip] > 1.0, "a clip does not play"
    assert max(abs(first - second) for first, second in seen) <= FRAME
    both.get_by_role("button", name="Pause").click()
    page.wait_for_function(READY)
    (stopped,) = page.evaluate(BOTH, 0)
    assert abs(stopped[0] - stopped[1]) < FRAME / 2
    both.get_by_role("button", name="Next frame").click()
    page.wait_for_function(READY)
    (stepped,) = page.evaluate(BOTH, 0)
    assert 0 < stepped[0] - stopped[0] < 2 * FRAME and stepped[0] == pytest.approx(stepped[1], abs=0.001)
    both.get_by_role("slider", name="Position").fill("1.0")
    page.wait_for_function(READY)
    assert page.evaluate(BOTH, 0) == [[pytest.approx(1.0, abs=0.01)] * 2]

    look(page, "clips")
    page.keyboard.press("Escape")
    expect(both).to_have_count(0)
    expect(few).not_to_have_class(re.compile("wl-chosen"))
    expect(many.get_by_role("button", name="Compare")).to_be_focused()


def test_pictures_lie_over_one_another_and_a_picture_over_its_source(
    gallery: Server, page: Page, runs: dict[str, str]
) -> None:
    person = Keyboard(page)
    large = card(page, runs["large"])
    large.get_by_text("More", exact=True).click()
    large.get_by_role("button", name="Compare with its source").click()
    both = page.get_by_role("region", name="Comparison")
    edge = both.get_by_role("slider", name="Edge between before and after")
    expect(edge).to_be_visible()
    expect(both.get_by_role("img", name="Text to image, 256 × 256")).to_be_visible()
    expect(both.get_by_role("img", name="Upscale, 512 × 512")).to_be_visible()
    person.tab_to("input", "Edge between")
    before = float(edge.input_value())
    person.press("ArrowRight")
    assert float(edge.input_value()) > before
    assert nameless(page) == []
    look(page, "pictures")
    person.press("Escape")
    expect(both).to_have_count(0)
    person.at()

    # by keyboard alone, in another language
    page.get_by_role("combobox", name="Language").select_option("ko")
    for name in ("picture", "large"):
        card(page, runs[name]).get_by_role("button", name="비교").press("Enter")
    expect(page.get_by_role("region", name="비교")).to_be_visible()
    page.get_by_role("combobox", name="언어").select_option("zh")
    expect(page.get_by_role("region", name="对比").get_by_role("img", name="文生图")).to_be_visible()
    page.get_by_role("button", name="结束对比").first.click()
    expect(page.get_by_role("region", name="对比")).to_have_count(0)


def test_it_is_to_be_seen_in_the_dark_and_in_a_small_window(app: Server, page: Page, runs: dict[str, str]) -> None:
    page.goto(f"{app.url}/?theme=dark")
    page.get_by_role("tab", name="Gallery").click()
    card(page, runs["8 steps"]).get_by_role("button", name="Compare").click()
    expect(page.get_by_role("status").filter(has_text="is selected")).to_be_visible()
    look(page, "dark-chosen")
    card(page, runs["40 steps"]).get_by_role("button", name="Compare with this").click()
    both = page.get_by_role("region", name="Comparison")
    page.wait_for_function(READY)
    look(page, "dark-clips")
    boxes = [clip.bounding_box() for clip in both.locator("video").all()]
    assert boxes[0] is not None and boxes[1] is not None
    assert boxes[0]["y"] == boxes[1]["y"] and boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
    assert boxes[1]["x"] + boxes[1]["width"] <= SMALL


def look(page: Page, name: str) -> None:
    """Keep what is seen in both sizes; the small one stays."""
    for width in (1200, SMALL):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(300)  # until all has its new place
        picture_of(page, f"compare-{name}-{width}")
