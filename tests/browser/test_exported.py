"""Notebooks that were executed headless or saved by hand, opened without a kernel: their results are there."""

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Show, open_in_lab, picture_of
from tests.browser.exported import TROUBLE, exported
from tests.browser.servers import TOKEN, Server, write_notebook
from tests.notebooks.papermill_lines import papermill
from tests.ui import made_runs
from wanavatar_lab.requests import SpeechToVideo, TextToImage

pytestmark = pytest.mark.chromium


def test_a_run_is_seen_in_the_exported_notebook(place: Path, page: Page) -> None:
    small = ["-p", "width", "64", "-p", "height", "96", "-p", "num_inference_steps", "1", "-p", "seed", "7"]
    done = papermill("01_text_to_image", place / "out", "-p", "interactive", "False", *small)
    assert done.code == 0, done.told
    # the run's, and those of the bare pipeline: a plot, a picture, a plot
    found = exported(place / "out" / "01_text_to_image.ipynb", page)
    drawn, enlarged, _, again, _ = found["pictures"]
    assert (drawn, enlarged, again, found["posters"]) == (64, 128, 128, [])
    said = page.locator("body").inner_text()
    for text in ("Text to image: succeeded in ", "seed 7", "num_inference_steps\t1 step", "default, where it differs"):
        assert text in said
    picture_of(page, "exported-run")


def test_clips_and_the_gallery_are_seen_in_the_exported_notebook(place: Path, page: Page) -> None:
    clip, picture = made_runs.clip(place / "a.mp4", 1.0), made_runs.picture(place / "a.png")
    made_runs.ended_run(SpeechToVideo(image=str(picture), audio=str(clip), profile="pocket"), [("talking", clip)])
    done = papermill("06_gallery", place / "out", "-p", "interactive", "False", "-p", "kind", "talking")
    assert done.code == 0, done.told
    assert exported(place / "out" / "06_gallery.ipynb", page) == {"pictures": [256], "posters": []}
    cells = [f"from wanavatar_lab.ui.panel import view_of\nview_of([{str(picture)!r}, {str(clip)!r}])"]
    write_notebook(place / "notebooks" / "files.ipynb", HEADLESS, *cells)
    executed = execute(place / "notebooks" / "files.ipynb", place / "out")
    assert exported(executed, page) == {"pictures": [256], "posters": [256]}
    page.locator("video").evaluate("video => { video.muted = true; return video.play(); }")  # it is inside
    picture_of(page, "exported-files")


HEADLESS = "from wanavatar_lab.ui.record import run_headless\nrun_headless()"


def execute(notebook: Path, out: Path) -> Path:
    import papermill as library

    library.execute_notebook(str(notebook), str(out / notebook.name), progress_bar=False)
    return out / notebook.name


def test_a_notebook_saved_by_hand_keeps_what_it_showed(place: Path, lab: Server, page: Page) -> None:
    request = TextToImage(prompt="An old sailor", profile="pocket")
    made_runs.ended_run(request, [("picture", made_runs.picture(place / "b.png"))])
    source = """
from wanavatar_lab.jobs import list_jobs
from wanavatar_lab.ui.job_card import JobCard
job = next(job for job in list_jobs() if job.run.stage == "text_to_image" and job.status().seed == 7)
JobCard(job.id)
"""
    notebook = place / "notebooks" / "by_hand.ipynb"
    write_notebook(notebook, source)
    open_in_lab(page, lab, "by_hand")
    expect(page.locator(".wl-job, .wl").first).to_be_visible()
    record = page.locator(".wl-record")
    expect(record).to_contain_text("Text to image · pocket")  # written, and hidden below what is alive
    expect(record).to_be_hidden()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+s")
    page.wait_for_function("() => !window.jupyterapp.shell.currentWidget.context.model.dirty")
    assert "wl-record" in notebook.read_text(encoding="utf-8")

    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    page.goto(f"{lab.url}/doc/tree/notebooks/by_hand.ipynb?reset&token={TOKEN}")
    expect(record).to_be_visible()
    expect(record.locator("img")).to_have_js_property("naturalWidth", 256)
    expect(page.get_by_text(TROUBLE)).to_have_count(1)  # by Lab, which knows no such widget any more
    expect(page.get_by_text(TROUBLE)).to_be_hidden()
    picture_of(page, "saved-by-hand")
    assert exported(notebook, page)["pictures"] == [256]


def test_the_page_which_is_never_saved_has_no_records(place: Path, voila: Server, page: Page) -> None:
    picture = made_runs.picture(place / "runs" / "c.png")
    source = f"from wanavatar_lab.ui.player import Player\nPlayer({str(picture)!r})"
    write_notebook(place / "notebooks" / "page.ipynb", source)
    page.goto(f"{voila.url}/voila/render/notebooks/page.ipynb")
    expect(page.locator(".wl img")).to_have_js_property("naturalWidth", 256)
    expect(page.locator(".wl-record")).to_have_count(0)


def test_a_runs_folder_outside_of_the_servers_is_seen(place: Path, show: Show, page: Page, tmp_path: Path) -> None:
    picture = made_runs.picture(tmp_path / "elsewhere" / "d.png")
    environ = f"import os\nos.environ['WANAVATAR_RUNS_DIR'] = {str(picture.parent)!r}"
    show("outside", f"{environ}\nfrom wanavatar_lab.ui.player import Player\nPlayer({str(picture)!r})")
    expect(page.locator(".wl img")).to_have_js_property("naturalWidth", 256)
