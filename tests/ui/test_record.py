"""What a notebook keeps of a widget: as the notebook's file has it, read back from there."""

import base64
import io
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from tests.queue_for_tests import REPOSITORY
from tests.ui import made_runs
from wanavatar_lab.requests import SpeechToVideo, TextToImage, Upscale
from wanavatar_lab.ui.gallery_panel import GalleryPanel
from wanavatar_lab.ui.panel import Panel, result_of
from wanavatar_lab.ui.player import Compare, Player, show
from wanavatar_lab.ui.record import Record, record_of, record_of_file, record_of_run, relative
from wanavatar_lab.ui.sweep import ContactSheet

DATA = re.compile(r'(src|poster)="data:([^;]*);base64,([^"]*)"')


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))  # of a kernel
    monkeypatch.chdir(tmp_path)
    return tmp_path


def media(record: Record) -> list[tuple[str, str, bytes]]:
    """What is embedded: attribute, media type and bytes."""
    return [(name, kind, base64.b64decode(data)) for name, kind, data in DATA.findall(record.html)]


def test_a_picture_is_kept_with_its_size_and_a_link(place: Path) -> None:
    record = record_of_file(made_runs.picture(place / "a picture.png", side=64), "Before <b>")
    ((name, kind, data),) = media(record)
    assert (name, kind, Image.open(io.BytesIO(data)).size) == ("src", "image/webp", (64, 64))
    assert 'href="a%20picture.png"' in record.html and "64 × 64" in record.html and "Before &lt;b&gt;" in record.html
    assert record.text == "Before <b>: 64 × 64, a picture.png"
    assert Image.open(io.BytesIO(record.picture)).format == "PNG"


def test_a_small_clip_is_kept_whole_and_a_larger_one_as_its_first_frame(place: Path) -> None:
    clip = made_runs.clip(place / "talking.mp4", 1.0, side=64)
    whole, poster = record_of_file(clip), record_of_file(clip, largest=clip.stat().st_size - 1)
    assert [(name, kind) for name, kind, _ in media(whole)] == [("poster", "image/webp"), ("src", "video/mp4")]
    assert media(whole)[1][2] == clip.read_bytes()
    assert [(name, kind) for name, kind, _ in media(poster)] == [("src", "image/webp")]
    assert poster.html.count('href="talking.mp4"') == 2  # at the picture and below it
    assert whole.text == poster.text == "talking.mp4: 64 × 64 · 1.00 s · 16 fps"


def test_a_recording_is_kept(place: Path) -> None:
    sound = made_runs.sound(place / "voice.wav", 0.5)
    assert media(record_of_file(sound)) == [("src", "audio/x-wav", sound.read_bytes())]
    assert "0.50 s" in record_of_file(sound).text


def test_a_file_that_is_gone_or_damaged_is_said_so(place: Path) -> None:
    (place / "bad.png").write_bytes(b"no picture")
    for name in ("bad.png", "gone.mp4"):
        record = record_of_file(place / name)
        assert name in record.text and media(record) == [] and len(record.text) > len(name) + 10


def test_links_are_relative_to_the_notebook(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JPY_SESSION_NAME", str(place / "notebooks" / "a.ipynb"))
    assert relative(place / "x.png") == "x.png"  # that folder is not there: the working folder
    (place / "notebooks").mkdir()
    assert relative(place / "runs" / "x.png") == "../runs/x.png"


def test_a_run_is_kept_with_its_seed_prompt_settings_and_times(place: Path) -> None:
    picture = made_runs.picture(place / "made.png", side=32)
    request = TextToImage(prompt="A <sailor>", profile="pocket", guidance_scale=2.5, upscale=False)
    record = record_of_run(made_runs.ended_run(request, [("picture", picture)]))
    for text in ("Text to image · pocket", "A &lt;sailor&gt;", "<dt>Seed</dt><dd>7</dd>", "<dt>Time</dt>"):
        assert text in record.html
    assert "2.5" in record.html.partition("<details>")[0]  # it differs from the default
    assert "--seed=7" in record.html.partition("<details>")[2]  # the command that makes it again
    assert record.text.startswith("Text to image · pocket, Seed 7, ") and "A <sailor>" in record.text
    assert len(media(record)) == 1


def test_a_run_that_failed_says_why() -> None:
    record = record_of_run(made_runs.ended_run(TextToImage(prompt="a", profile="pocket"), state="failed"))
    assert "Failed" in record.html and "It went wrong. Try again." in record.html
    assert "It went wrong. Try again." in record.text


def test_widgets_are_kept_with_all_of_their_files(place: Path) -> None:
    one, other = made_runs.picture(place / "one.png", side=32), made_runs.picture(place / "other.png", side=64)
    clip = made_runs.clip(place / "clip.mp4", 0.5, side=32)
    assert len(media(Player(clip, clip, labels=("first", "second")).record())) == 4
    assert "second" in Player(clip, clip, labels=("first", "second")).record().html
    assert [len(data) > 0 for *_, data in media(Compare(one, other).record())] == [True, True]
    assert len(media(record_of(show([one, other, clip])))) == 4
    sheet = ContactSheet(["Seed 1"], ["Steps 2", "Steps 4", "Steps 8"])
    sheet.fill(0, 0, one)
    sheet.leave(0, 1, "failed", "no <memory>")
    assert len(media(sheet.record())) == 1
    for text in ("Seed 1", "Steps 8", "no &lt;memory&gt;"):
        assert text in sheet.record().html


def test_the_result_of_upscaling_is_kept_beside_its_input(place: Path) -> None:
    before, after = made_runs.picture(place / "a.png", side=32), made_runs.picture(place / "b.png", side=64)
    run = made_runs.ended_run(Upscale(image=str(before), profile="pocket"), [("picture", after)])
    sizes = [Image.open(io.BytesIO(data)).size for *_, data in media(record_of(result_of(run)))]
    assert sizes == [(32, 32), (64, 64)]


def test_a_form_that_was_not_run_is_kept_with_what_it_was_given(place: Path) -> None:
    sound = made_runs.sound(place / "voice.wav", 0.5)
    record = Panel(SpeechToVideo, audio=str(sound), seed=41).record()
    assert "not run yet" in record.html and "voice.wav" in record.html and "41" in record.html
    assert media(record) == []


def test_the_gallery_is_kept_with_what_it_found(place: Path) -> None:
    picture = made_runs.picture(place / "made.png", side=32)
    for prompt in ("one sailor", "two sailors"):
        made_runs.ended_run(TextToImage(prompt=prompt, profile="pocket"), [("picture", picture)])
    record = GalleryPanel(query="two").record()
    assert "two sailors" in record.html and "one sailor" not in record.html and len(media(record)) == 1


CELL = """
import os
os.environ.update({environ!r})
from wanavatar_lab.ui.parameters import check_parameters
check_parameters({{"interactive": {interactive}}})
from wanavatar_lab.ui.sweep import ContactSheet
sheet = ContactSheet(["Seed 1"], ["Steps 2"])
sheet
"""


@pytest.mark.parametrize("interactive", [True, False])
def test_a_notebook_has_the_record_of_what_was_shown_last(interactive: bool, place: Path) -> None:
    picture = made_runs.picture(place / "made.png", side=32)
    environ = {"WANAVATAR_SERVER_ROOT": str(place)}
    notebook = nbformat.v4.new_notebook()
    fill = f"sheet.fill(0, 0, {str(picture)!r})\nawait sheet.keep()"
    sources = (CELL.format(environ=environ, interactive=interactive), fill)
    notebook.cells = [nbformat.v4.new_code_cell(source) for source in sources]
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(place)}}).execute()
    *view, kept = [output.data for output in notebook.cells[0].outputs]
    assert [sorted(each) for each in view] == (
        [["application/vnd.jupyter.widget-view+json", "text/html", "text/plain"]] if interactive else []
    )
    assert sorted(kept) == ["image/png", "text/html", "text/plain"]
    assert kept["text/plain"] == "made.png: 32 × 32"
    assert all(not cell.outputs for cell in notebook.cells[1:])
