"""The list of LoRAs and their cards in Lab and in Voilà: found, shown, used, their words written into the prompt."""

from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import Show, nameless, picture_of
from tests.lora.files import save, tiny
from tests.ui import made_runs

pytestmark = pytest.mark.chromium

CELL = """
import os
import ipywidgets
os.environ["WANAVATAR_WEIGHTS"] = os.environ["WANAVATAR_SERVER_ROOT"] + "/weights"
from wanavatar_lab.requests import ImageToVideo
from wanavatar_lab.ui.form import Form
from wanavatar_lab.ui.lora_list import LoraList
form, loras = Form(ImageToVideo), LoraList()
loras.on_use(lambda name, stage, profile: form.use_lora(name, profile))
ipywidgets.VBox([loras, form])
"""
MODULE, WIDTH = "diffusion_model.blocks.0.self_attn.q", 5120  # of the published model


@pytest.fixture(scope="module", autouse=True)
def loras(place: Path) -> None:
    """Two LoRAs for video, of which one has trigger words and a preview."""
    folder = place / "weights" / "loras" / "mov"
    ann = save(folder / "character" / "ann.safetensors", tiny(MODULE, inputs=WIDTH, rank=4))
    ann.with_suffix(".txt").write_text("ohwx woman, red hair")
    made_runs.picture(ann.with_suffix(".png"), side=64)
    save(folder / "camera" / "zoom.safetensors", tiny(MODULE, inputs=WIDTH, rank=4))


def width(picture: Locator) -> int:
    picture.scroll_into_view_if_needed()
    found: int = picture.evaluate("async picture => { await picture.decode(); return picture.naturalWidth; }")
    return found


def test_one_is_found_and_used(show: Show, page: Page) -> None:
    server = show("loras", CELL)
    listed = page.get_by_role("list", name="LoRAs")
    expect(listed.get_by_role("listitem")).to_have_count(2)
    assert nameless(page) == []
    page.get_by_role("searchbox", name="Search names and trigger words").fill("OHWX")
    expect(listed.get_by_role("listitem")).to_have_count(1)
    expect(listed).to_contain_text("Wan-14B · rank 4")
    assert width(listed.get_by_role("img", name="Preview of ann")) == 64
    picture_of(page, f"loras-{server.kind}")

    listed.get_by_role("button", name="ann: Use in Image to video, Full").click()
    use = page.get_by_role("checkbox", name="Use ann")
    expect(use).to_be_checked()
    page.get_by_role("spinbutton", name="ann: High-noise weight").fill("0.75")
    page.get_by_role("button", name="Add “red hair” to the prompt").click()
    expect(page.get_by_role("textbox", name="Prompt", exact=True)).to_have_value("red hair")
    assert width(page.get_by_role("img", name="Picture ann.png")) == 64
    assert nameless(page) == []
    picture_of(page, f"lora-card-{server.kind}")
