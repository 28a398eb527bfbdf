"""A file of 50 MiB that is sent from the page lies on disk as it was, in Lab and in Voilà."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from playwright.sync_api import Page, expect

from tests.browser.conftest import Show, nameless, picture_of
from tests.ui import made_runs

pytestmark = pytest.mark.chromium

CELL = """
from ipywidgets import VBox
from wanavatar_lab.ui.uploads import Upload
VBox([Upload(accept=".wav,.mp3", folder="../data/uploads"), Upload(accept=".png,.jpg")])
"""
MIB = 1024**2


def test_an_upload_arrives_identical_and_a_wrong_one_is_refused(
    show: Show, page: Page, place: Path, tmp_path: Path
) -> None:
    source = tmp_path / "녹음 long.wav"
    noise = np.random.default_rng(0).integers(-9000, 9000, (25 * MIB + 1234, 1), dtype=np.int16)
    soundfile.write(source, noise, 48_000)
    assert source.stat().st_size > 50 * MIB
    server = show("upload", CELL)
    upload, pictures = (page.get_by_role("group", name="Upload").nth(number) for number in range(2))
    before = set((place / "data" / "uploads").glob("*.wav"))
    with page.expect_file_chooser() as chooser:
        upload.get_by_role("button", name="Choose a file…").click()
    chooser.value.set_files(source)
    expect(upload.get_by_role("progressbar")).to_be_visible()
    assert nameless(page) == []
    picture_of(page, f"upload-{server.kind}-going")
    expect(upload.get_by_text("녹음 long")).to_contain_text("52 MB", timeout=120_000)
    expect(upload.get_by_role("progressbar")).to_be_hidden(timeout=120_000)
    (arrived,) = set((place / "data" / "uploads").glob("*.wav")) - before
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (source, arrived)}
    assert len(digests) == 1

    # dropped, and not what its name says
    page.evaluate(
        """() => {
          const data = new DataTransfer();
          data.items.add(new File([new Uint8Array(5000)], "face.png"));
          document.querySelectorAll(".wl-upload-zone")[1].dispatchEvent(new DragEvent("drop", {dataTransfer: data}));
        }"""
    )
    expect(pictures.get_by_role("alert")).to_contain_text("face.png")
    face = made_runs.picture(tmp_path / "face.png", side=200)
    page.locator("input[type=file]").nth(1).set_input_files(face)
    picture = pictures.get_by_role("img", name="face")
    expect(picture).to_be_visible()
    page.wait_for_function("document.querySelectorAll('.wl-upload-preview')[1].naturalWidth === 200")
    picture_of(page, f"upload-{server.kind}")
    assert not list((place / "data" / "uploads").glob(".upload-*"))
