"""Results of pocket models, dragged from one form into another and dropped to get their settings back."""

import re
import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import nameless, open_in_lab, picture_of
from tests.browser.servers import Server, write_notebook
from tests.browser.test_drop import carry
from tests.ui import made_runs
from wanavatar_lab.jobs import list_jobs

pytestmark = pytest.mark.chromium

PATIENCE = 120_000  # milliseconds; a worker that has to load torch first is slow on a busy machine
PROMPT = "a woman with red hair and a green sweater, blue background"
LAB_CELL = """
from wanavatar_lab.ui.gallery_panel import GalleryPanel
GalleryPanel()
"""


def the(page: Page, role: str, name: str) -> Locator:
    return page.get_by_role(role, name=name, exact=True).and_(page.locator(":visible"))  # type: ignore[arg-type]


def middle(target: Locator) -> tuple[float, float]:
    target.scroll_into_view_if_needed()
    box = target.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drop_file(page: Page, file: Path, target: Locator) -> None:
    """Drop a file of the desktop on something of the page."""
    carry(page, file, *middle(target))


def grasp(page: Page, source: Locator) -> None:
    """Begin to drag something by its upper left part, before anything scrolls."""
    source.scroll_into_view_if_needed()
    box = source.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 25, box["y"] + 25)
    page.mouse.down()
    page.mouse.move(box["x"] + 45, box["y"] + 35, steps=4)


def drag(page: Page, source: Locator, target: Locator) -> None:
    """Drag something into something else of the page."""
    grasp(page, source)
    x, y = middle(target)
    page.mouse.move(x, y, steps=4)
    page.mouse.move(x + 2, y)
    page.mouse.up()


def run(page: Page, count: int) -> Path:
    """Press Run, and wait for the run's folder; it is the `count`th of the stage's strip."""
    before = len(list_jobs())
    the(page, "button", "Run").click()
    strip = page.locator(".wl-history-item:visible")
    expect(strip).to_have_count(count, timeout=PATIENCE)
    jobs = list_jobs()
    assert len(jobs) == before + 1 and jobs[0].status().state == "succeeded"
    return jobs[0].run.folder


def fill(page: Page, name: str, value: str) -> None:
    the(page, "spinbutton", name).fill(value)
    the(page, "spinbutton", name).press("Tab")


def test_from_a_picture_to_a_clip_and_back_to_the_settings_of_both(
    app: Server, place: Path, page: Page, tmp_path: Path
) -> None:
    page.set_viewport_size({"width": 1200, "height": 1500})
    page.goto(app.url)
    the(page, "textbox", "Prompt").fill(PROMPT)
    fill(page, "Steps", "1")
    fill(page, "Seed", "5")
    drawn = run(page, 1)

    # a result is dragged over the tab of another stage, which opens, and into a field there
    grasp(page, page.locator(".wl-history-item:visible"))
    tab = middle(page.get_by_role("tab", name="Speech to video"))
    page.mouse.move(*tab, steps=4)
    page.mouse.move(tab[0] + 2, tab[1])
    picture = page.locator(".wl-of-image:visible")
    expect(picture).to_be_visible()
    page.mouse.move(*middle(picture), steps=4)
    picture_of(page, "dragging-over")
    page.mouse.up()
    path = page.get_by_role("textbox", name="Picture: File path").and_(page.locator(":visible"))
    expect(path).to_have_value(f"{drawn}/upscaled.png")  # of its two sizes the larger
    expect(picture.locator(".wl-player img")).to_have_js_property("naturalWidth", 256)

    the(page, "combobox", "Voice: Sample").select_option(label="english_female.wav")
    fill(page, "To (s)", "0.6")
    fill(page, "Steps", "1")
    fill(page, "Seed", "6")
    spoken = run(page, 1)
    request = list_jobs()[0].run.request()

    # the result itself, into the field of the picture
    drag(page, page.locator(".wl-panel-made:visible figure"), picture)
    expect(path).to_have_value(f"{spoken}/talking.mp4")
    expect(picture.locator(".wl-player img")).to_have_js_property("naturalWidth", 128)  # its first frame

    # without a mouse, and to the disk
    with page.expect_download() as download:
        the(page, "link", "Download").click()
    assert download.value.suggested_filename == f"{spoken.name}-talking.mp4"
    assert download.value.path().read_bytes() == (spoken / "talking.mp4").read_bytes()
    page.get_by_text("Use in").and_(page.locator(":visible")).click()
    page.locator(".wl-history:visible").get_by_role("button", name="Image to video").click()
    expect(page.get_by_role("tab", name="Image to video")).to_have_attribute("aria-selected", "true")
    first_frame = page.locator(".wl-of-image:visible .wl-player img")
    expect(first_frame).to_have_js_property("naturalWidth", 128)
    page.get_by_role("tab", name="Speech to video").click()

    # a copy under another name, as one that was sent and kept elsewhere
    clip, copy = tmp_path / "a talk.mp4", tmp_path / "kept.png"
    shutil.copy(spoken / "talking.mp4", clip)
    shutil.copy(drawn / "picture.png", copy)
    the(page, "button", "Reset the form").click()
    expect(the(page, "spinbutton", "Seed")).to_have_value("-1")
    drop_file(page, clip, page.locator(".wl-panel-title:visible"))
    expect(page.get_by_text("Settings of a talk.mp4 are in the form.")).to_be_visible()
    expect(the(page, "spinbutton", "Seed")).to_have_value("6")
    expect(the(page, "spinbutton", "Steps (steps)").or_(the(page, "spinbutton", "Steps"))).to_have_value("1")
    picture_of(page, "dragging-restored")
    run(page, 2)
    assert list_jobs()[0].run.request() == request  # the inputs were found by their bytes
    assert (list_jobs()[0].run.folder / "talking.mp4").read_bytes() == clip.read_bytes()

    # a picture of another stage is an input here, and settings in its own stage or on the gallery
    drop_file(page, copy, page.locator(".wl-panel-title:visible"))
    expect(path).to_have_value(re.compile("uploads/kept.*[.]png"))
    page.get_by_role("tab", name="Text to image").click()
    the(page, "button", "Reset the form").click()
    expect(the(page, "textbox", "Prompt")).to_have_value("")
    drop_file(page, copy, the(page, "textbox", "Prompt"))
    expect(the(page, "textbox", "Prompt")).to_have_value(PROMPT)
    expect(the(page, "spinbutton", "Seed")).to_have_value("5")
    the(page, "button", "Reset the form").click()
    page.get_by_role("tab", name="Gallery").click()
    drop_file(page, copy, page.locator(".wl-gallery:visible"))
    expect(page.get_by_role("tab", name="Text to image")).to_have_attribute("aria-selected", "true")
    expect(the(page, "textbox", "Prompt")).to_have_value(PROMPT)
    drop_file(page, clip, page.locator(".wl-panel-title:visible"))  # of a stage that this form is not of
    expect(page.get_by_role("tab", name="Speech to video")).to_have_attribute("aria-selected", "true")

    foreign = made_runs.picture(tmp_path / "foreign.png", side=64)
    page.get_by_role("tab", name="Text to image").click()
    drop_file(page, foreign, page.locator(".wl-panel-title:visible"))
    refused = page.get_by_role("alert").and_(page.locator(":visible"))
    expect(refused).to_have_text(
        "foreign.png does not say how it was made: WanAvatar Lab did not make it, or another program saved it anew."
    )
    expect(the(page, "textbox", "Prompt")).to_have_value(PROMPT)
    picture_of(page, "dragging-foreign")
    assert nameless(page) == []
    # of all files that came only the input is kept, and the frame of the clip
    uploads = {each.name.partition("-0s-")[0] for each in (place / "data" / "uploads").glob("*.png")}
    assert uploads == {"kept.png", "talking"} and not [*(place / "data" / "uploads").glob("*.mp4")]


def test_in_lab_a_card_of_the_gallery_is_dragged_into_a_field(lab: Server, place: Path, page: Page) -> None:
    write_notebook(place / "notebooks" / "drag.ipynb", LAB_CELL)
    open_in_lab(page, lab, "drag")
    cards = page.locator(".wl-gallery li")
    expect(cards).to_have_count(3)
    cards.filter(has_text=PROMPT).get_by_role("button", name="Use as input").click()
    panel = page.locator(".wl-panel")
    path = panel.get_by_role("textbox", name="Picture: File path")
    expect(path).to_have_value(re.compile("upscaled.png"))
    drag(page, cards.first.locator("video"), panel.locator(".wl-of-audio"))
    recording = panel.get_by_role("textbox", name="Voice: File path")
    expect(recording).to_have_value(re.compile(r"-speech_to_video/talking[.]mp4"))
    picture_of(page, "dragging-lab")
