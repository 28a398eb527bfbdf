"""The notebooks of training in Lab: a training is started, watched, left, found again, stopped, read and used."""

import asyncio
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import nameless, open_in_lab, picture_of
from tests.browser.looking import frame_of, is_blank
from tests.browser.servers import REPOSITORY, Server, write_notebook
from tests.queue_for_tests import eventually, is_alive
from training.launch.launch import start, state, stop
from training.launch.processes import LOG, processes_of
from training.loop.run_folder import WEIGHTS, checkpoints
from training.ui.person import Person, config_for
from training.ui.preparing import encode_clips, prepare_clips
from wanavatar_lab.lora import describe, find_adapters
from wanavatar_lab.ui.plots import BLUE

# models are loaded and steps trained, for longer than other tests take on a busy machine
pytestmark = [pytest.mark.chromium, pytest.mark.timeout(900)]

PATIENCE = 120_000  # milliseconds that loading models may take on a busy machine
PANELS = ".wl, .wl-panel"
SAMPLE_EVERY = 4
# more steps than there is time for, so that it is the test that ends it
PARAMETERS = {"steps": "100000", "sample_every": str(SAMPLE_EVERY), "validate_every": "2", "learning_rate": "1e-3"}
DOTS = f'svg[aria-label^="Loss"] use[style*="{BLUE}"]'  # of the steps in the plot of the loss
TRYOUT = """
from training.ui.person import Person
from training.ui.tryout import TryOut
from wanavatar_lab.requests import SpeechToVideo
one = Person.of("ann")
said = SpeechToVideo(profile="pocket", image=str(one.reference), audio=str(one.voice))
TryOut(one.run, said, name="ann", preview=one.reference)
"""
LORAS = """
from wanavatar_lab.ui.lora_list import LoraList
LoraList()
"""


@pytest.fixture(scope="module")
def weights(place: Path) -> Iterator[Path]:
    """A folder of weights of the test's own, since a LoRA is put there."""
    folder = place / "weights"
    folder.mkdir()
    (folder / "pocket").symlink_to(REPOSITORY / "weights" / "pocket")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANAVATAR_WEIGHTS", str(folder))
        yield folder


@pytest.fixture(scope="module", autouse=True)
def ann(place: Path, weights: Path) -> Iterator[Person]:
    """A person whose clips are prepared; whatever still trains at the end is ended."""
    person = Person.of("ann")
    preparing = prepare_clips(person, profile="pocket", clips=2, seconds=3.0, say=lambda line: None)
    asyncio.run(preparing)
    yield person
    if state(person.run).state == "running":
        stop(person.run)


@pytest.fixture
def trained(ann: Person) -> Person:
    """The same, trained by the tests before, or else by a few steps now."""
    if not (checkpoints(ann.run) and list(ann.run.glob(f"clips/{SAMPLE_EVERY:06d}-*.mp4"))):
        encoding = encode_clips(ann, profile="pocket", prompt="A person speaks.", say=lambda line: None)
        with ThreadPoolExecutor() as elsewhere:  # there is a loop of Playwright's here
            elsewhere.submit(asyncio.run, encoding).result()
        config = {"sample_every_n_steps": str(SAMPLE_EVERY), "validation_steps": "2", "learning_rate": "1e-3"}
        start(config_for(ann, "pocket", max_train_steps=str(SAMPLE_EVERY), **config))
        eventually(lambda: state(ann.run).state == "finished", PATIENCE / 1000)
    return ann


def parameterized(place: Path, name: str, **given: str | float) -> Any:
    """Write a notebook with other parameters where the servers find it."""
    path = place / "notebooks" / f"{name}.ipynb"
    committed = load_notebook_node(str(REPOSITORY / "notebooks" / path.name))
    notebook = parameterize_notebook(committed, {"person": "ann", **given})
    nbformat.write(notebook, path)
    return notebook


def opened(page: Page, lab: Server, place: Path, name: str, **given: str) -> None:
    """Open a notebook with other parameters and run all of its cells; returns when the last one is asked for."""
    notebook = parameterized(place, name, **given)
    open_in_lab(page, lab, name)
    for _ in notebook.cells[2:]:
        page.keyboard.press("Shift+Enter")


def training(page: Page) -> Locator:
    return page.get_by_role("region", name="Training", exact=True)


def step_of(page: Page) -> int:
    """The step that the card tells, once it does: a page that is opened again draws it anew."""
    card = "document.querySelector('.wl-job output')?.textContent"
    told = page.wait_for_function(f"Number(/^step (\\d+) of 100000$/.exec({card})?.[1]) || null", timeout=PATIENCE)
    return int(told.json_value())


def later_than(page: Page, step: int) -> None:
    """Wait until the card tells of a later step."""
    page.wait_for_function(
        "step => Number(/step (\\d+) of/.exec(document.querySelector('.wl-job output')?.textContent)?.[1]) > step",
        arg=step,
        timeout=PATIENCE,
    )


def test_a_training_is_started_watched_left_stopped_and_goes_on(
    lab: Server, place: Path, page: Page, ann: Person
) -> None:
    opened(page, lab, place, "11_train", **PARAMETERS)
    expect(page.get_by_text("Not started", exact=True).first).to_be_visible(timeout=PATIENCE)
    expect(training(page).get_by_text("took")).to_have_count(0)
    page.get_by_role("button", name="Start training").click()
    expect(training(page).get_by_text("Running", exact=True)).to_be_visible()
    expect(page.get_by_role("button", name="Start training")).to_be_disabled()
    first = step_of(page)
    loss = page.get_by_role("img", name="Loss: per step, all branches; step")
    expect(loss).to_be_visible()
    drawn = page.locator(DOTS).count()
    later_than(page, first + 1)
    page.wait_for_function(f"drawn => document.querySelectorAll(`{DOTS}`).length > drawn", arg=drawn)
    expect(page.get_by_text(re.compile(r"\d of \d+ CPU cores · \d+\.\d GB RAM"))).to_be_visible()
    expect(training(page).get_by_role("progressbar", name="Progress of Training")).to_be_visible()
    expect(page.get_by_text("step 0 (base model) (sound on)")).to_be_visible()
    expect(page.get_by_text(re.compile(r"^step [1-9]\d*$"))).to_be_visible(timeout=PATIENCE)
    assert nameless(page, PANELS) == []
    picture_of(page, "training-running")

    page.get_by_role("combobox", name="Language").select_option("ko")
    expect(page.get_by_text("실행 중", exact=True)).to_be_visible()
    expect(page.get_by_role("img", name="손실: 스텝별, 모든 분기; 스텝")).to_be_visible()
    expect(page.get_by_text("스텝 0(베이스 모델)(소리 켜짐)")).to_be_visible()
    assert nameless(page, PANELS) == []
    page.get_by_role("combobox", name="언어").select_option("en")

    # as it was left: the page finds its widgets in the kernel, which has followed the run
    page.get_by_role("button", name="Save and create checkpoint").click()
    page.wait_for_function("() => !window.jupyterapp.shell.currentWidget.context.model.dirty")
    page.reload()
    left_at = step_of(page)
    later_than(page, left_at)

    mine = processes_of(ann.run)
    mine += [child for process in mine for child in process.children(recursive=True)]
    assert len({process.pid for process in mine}) >= 2  # the one that waits, and the one that trains
    training(page).get_by_role("button", name="Stop").click()
    expect(training(page).get_by_text("Stopped", exact=True)).to_be_visible(timeout=PATIENCE)
    assert not any(is_alive(process.pid) for process in mine) and not processes_of(ann.run)
    saved = int(checkpoints(ann.run)[-1].name.rpartition("-")[2])
    picture_of(page, "training-stopped")

    page.get_by_role("button", name=f"Resume from step {saved}").click()
    later_than(page, saved)
    assert f"resumed from step {saved} of 100000" in (ann.run / LOG).read_text()

    for kernel in lab.kernels():
        os.kill(kernel, signal.SIGKILL)
    killed_at = step_of(page)
    assert state(ann.run).state == "running"
    opened(page, lab, place, "11_train", **PARAMETERS)
    expect(training(page).get_by_text("Running", exact=True)).to_be_visible(timeout=PATIENCE)
    later_than(page, killed_at)
    training(page).get_by_role("button", name="Stop").click()
    expect(training(page).get_by_text("Stopped", exact=True)).to_be_visible(timeout=PATIENCE)
    assert not processes_of(ann.run)


def test_its_numbers_are_in_tensorboard_within_the_page(lab: Server, place: Path, page: Page, trained: Person) -> None:
    opened(page, lab, place, "11_train", **PARAMETERS)
    page.get_by_role("button", name="Open TensorBoard").click()
    board = page.frame_locator("iframe[title=TensorBoard]")
    for group in ("clips", "loss", "validation"):
        expect(board.get_by_text(group, exact=True).first).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_role("link", name="http://127.0.0.1:")).to_be_visible()
    page.locator("iframe").scroll_into_view_if_needed()
    picture_of(page, "training-board")


def test_a_run_is_read(lab: Server, place: Path, page: Page, trained: Person) -> None:
    opened(page, lab, place, "12_results")
    video = page.locator(".wl video")
    expect(video).to_have_count(4, timeout=PATIENCE)  # before and after; after and the true one
    for title in ("Loss: per step", "Loss by branch", "Held-out error relative to the base model", "Gradient norm",
                  "Early and late in the run", "Held-out lips by noise level", "Training by bucket of σ",
                  "Held-out error of the lips", "Loss: moving average"):  # fmt: skip
        expect(page.get_by_role("img", name=re.compile(f"^{title}"))).to_be_visible()
    maps = page.get_by_role("img", name=re.compile(r"lips \d+\.\d%, rest of the face \d+\.\d%"))
    assert maps.count() == 5 and all(width(each) >= 128 for each in maps.all())
    with page.expect_download() as download:
        page.get_by_role("link", name=re.compile(r"^Download ann-training-\d+\.safetensors$")).click()
    assert download.value.path().read_bytes() == (checkpoints(trained.run)[-1] / WEIGHTS).read_bytes()
    before, after = video.nth(0), video.nth(1)
    before.scroll_into_view_if_needed()
    before.evaluate("video => video.play()")
    for each in (before, after):
        page.wait_for_function("video => video.currentTime > 0.4", arg=each.element_handle())
    before.evaluate("video => video.pause()")
    assert not is_blank(frame_of(before)) and not is_blank(frame_of(after))
    assert np.any(frame_of(before) != frame_of(after)), "nothing was learnt"
    expect(page.get_by_text("step 0 (base model) (sound on)")).to_be_visible()
    assert nameless(page, f"{PANELS}, .jp-OutputArea") == []
    picture_of(page, "training-read")


def test_on_a_narrow_page_nothing_stands_beyond_its_edge(voila: Server, place: Path, page: Page) -> None:
    parameterized(place, "10_prepare", clips=2, seconds=3.0)
    page.set_viewport_size({"width": 640, "height": 900})
    page.goto(f"{voila.url}/voila/render/notebooks/10_prepare.ipynb", wait_until="commit")
    table = page.get_by_role("region", name=re.compile(r"^\d clips, "))
    expect(table).to_be_visible(timeout=PATIENCE)
    overview = page.get_by_role("img", name="contact_sheet.png").first
    assert width(overview) > 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 640
    # where the table is wider than its box, it is moved within it
    assert table.evaluate("table => getComputedStyle(table).overflowX") == "auto"
    # no bars above and below the picture
    own = overview.evaluate("picture => picture.naturalWidth / picture.naturalHeight")
    assert overview.evaluate("picture => picture.width / picture.height") == pytest.approx(own, rel=0.02)
    picture_of(page, "training-narrow")


def test_it_is_put_into_the_list_and_tried(
    lab: Server, place: Path, page: Page, trained: Person, weights: Path
) -> None:
    opened(page, lab, place, "13_use")
    video = page.locator(".wl video")
    expect(video).to_have_count(2, timeout=PATIENCE)
    expect(page.get_by_role("figure", name="with ann").first).to_be_visible()
    curves = page.get_by_role("img", name=re.compile("^Mouth opening against loudness: the same words"))
    expect(curves.first).to_be_visible(timeout=PATIENCE)
    picture_of(page, "training-tried")
    (found,) = describe(find_adapters(weights), weights)
    assert (found.name, found.kind, found.rank) == ("ann", "character", (16, 16))


def test_one_click_puts_it_into_the_list(lab: Server, place: Path, page: Page, trained: Person, weights: Path) -> None:
    write_notebook(place / "notebooks" / "tryout.ipynb", TRYOUT)
    open_in_lab(page, lab, "tryout")
    page.get_by_role("button", name="Add to the LoRA list").click(timeout=PATIENCE)
    expect(page.get_by_text("strength 0.5 × alpha 16 / rank 16 = effective scale 0.5").first).to_be_visible()
    expect(page.get_by_text(re.compile(r"^ann, trained for \d+ steps, is in the LoRA list: ")).first).to_be_visible()
    assert nameless(page, PANELS) == []
    picture_of(page, "training-used")
    (found,) = describe(find_adapters(weights), weights)
    assert (found.name, found.kind, found.rank) == ("ann", "character", (16, 16))

    write_notebook(place / "notebooks" / "loras.ipynb", LORAS)
    open_in_lab(page, lab, "loras")
    listed = page.get_by_role("list", name="LoRAs").get_by_role("listitem")
    expect(listed).to_have_count(1)
    expect(listed).to_contain_text("Usual strength: 0.5")
    expect(listed).to_contain_text("recommended weight 0.5")
    assert width(listed.get_by_role("img", name="Preview of ann")) == 128


def width(picture: Locator) -> int:
    picture.scroll_into_view_if_needed()
    found: int = picture.evaluate("async picture => { await picture.decode(); return picture.naturalWidth; }")
    return found
