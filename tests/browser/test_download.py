"""A trained LoRA is downloaded with a click, in Lab and on the page, under the name of its person."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Show, nameless

pytestmark = pytest.mark.chromium

SOURCE = """
from wanavatar_lab.ui.download import Download
Download({file!r}, "ann.safetensors")
"""


def test_a_click_downloads_the_file(show: Show, place: Path, page: Page) -> None:
    file = place / "runs" / "ann" / "training" / "checkpoint-2" / "lora_weights.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(bytes(range(256)) * 4000)
    show("download", SOURCE.format(file=str(file)))
    link = page.get_by_role("link", name="Download ann.safetensors")
    expect(link).to_be_visible()
    expect(page.get_by_text("1.0 MB", exact=True)).to_be_visible()
    with page.expect_download() as download:
        link.click()
    assert download.value.suggested_filename == "ann.safetensors"
    assert download.value.path().read_bytes() == file.read_bytes()
    assert nameless(page) == []


def test_a_file_that_no_server_serves_is_named(show: Show, page: Page, tmp_path: Path) -> None:
    file = tmp_path / "lora_weights.safetensors"
    file.write_bytes(b"weights")
    show("elsewhere", SOURCE.format(file=str(file)))
    expect(page.locator(".wl-download code")).to_have_text(str(file))
    expect(page.locator(".wl-download .wl-button")).to_be_hidden()
