"""What is dropped: a file becomes an input or brings its settings back, and one that says nothing is refused."""

import asyncio
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.ui import made_runs
from tests.ui.looking import alerts, everything, until
from wanavatar_lab import media
from wanavatar_lab.files import sha256_of
from wanavatar_lab.requests import Request, SpeechToVideo, TextToImage
from wanavatar_lab.runs.inputs import InputFile
from wanavatar_lab.runs.made_with import describe
from wanavatar_lab.ui.drop_zone import SAYS_HOW, SETTINGS, DropZone, take_into
from wanavatar_lab.ui.form import Form
from wanavatar_lab.ui.gallery_panel import GalleryPanel
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.page import Page
from wanavatar_lab.ui.panel import Panel


@pytest.fixture(autouse=True)
def served(queue_settings: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(queue_settings.parent))
    return queue_settings.parent


def made_by(request: Request, path: Path, seed: int = 7) -> Path:
    """A file that says it was made by a request, whose input files exist."""
    inputs = {
        name: InputFile(name=file.name, bytes=1, sha256=sha256_of(file), state=(1, 0, 0, 0), copied=True)
        for name, file in request.input_files().items()
    }
    entries = describe(request, seed, inputs, {})
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".mp4":
        with media.VideoWriter(path, fps=16, metadata=entries) as writer:
            writer.write(np.zeros((32, 32, 3), np.uint8))
    else:
        media.write_picture(path, made_runs.face(side=32), metadata=entries)
    return path


@pytest.fixture
def talk(served: Path) -> SpeechToVideo:
    """A request whose picture is a result here, and whose voice was uploaded."""
    drawn = made_runs.picture(served / "picture.png", side=64)
    run = made_runs.ended_run(TextToImage(prompt="a cat", profile="pocket"), [("picture", drawn)])
    voice = made_runs.sound(served / "data" / "uploads" / "voice.wav", 0.5)
    return SpeechToVideo(
        profile="pocket", image=str(run.folder / "picture.png"), audio=str(voice), num_inference_steps=3
    )


def dropped(form: Form, path: Path, field: str = "", **elsewhere: Any) -> str:
    return asyncio.run(take_into(form, path, field, **elsewhere))


@pytest.mark.parametrize("kind", [".mp4", ".png"])
def test_what_the_stage_has_made_brings_its_settings_back(talk: SpeechToVideo, tmp_path: Path, kind: str) -> None:
    form = Form(SpeechToVideo, prompt="another one", flow_shift=4.0)
    clip = made_by(talk, tmp_path / f"kept{kind}")
    assert dropped(form, clip) == f"Settings of kept{kind} are in the form."
    assert form.request() == talk.changed(seed=7)
    assert form.touched == {"profile", "image", "audio", "num_inference_steps", "seed"}


def test_an_input_that_is_gone_or_another_is_named_at_its_field(talk: SpeechToVideo, tmp_path: Path) -> None:
    clip = made_by(talk, tmp_path / "kept.mp4")
    made_runs.sound(Path(talk.audio), 1.0)  # another recording under this name
    talk.input_files()["image"].unlink()
    form = Form(SpeechToVideo)
    dropped(form, clip)
    missing = "{} is not on this machine; choose it again"
    assert form.problems() == {"image": missing.format("picture.png"), "audio": missing.format("voice.wav")}
    assert form.values()["num_inference_steps"] == 3 and not form.values()["image"]
    language.code = "ko"
    assert "이 컴퓨터에 voice.wav 파일이 없습니다" in alerts(form)


def test_a_file_of_another_stage_is_an_input_or_opens_its_own_form(talk: SpeechToVideo, tmp_path: Path) -> None:
    picture = made_by(TextToImage(prompt="a dog", profile="pocket"), tmp_path / "dog.png")
    form = Form(SpeechToVideo)
    assert dropped(form, picture) == "" and form.values()["image"] == str(picture)
    assert dropped(form, picture, "image") == ""
    with pytest.raises(Exception, match=r"dog\.png was made by Text to image\. Drop it on the form of that stage"):
        dropped(form, picture, SETTINGS)
    other = Form(TextToImage)
    assert dropped(form, picture, SETTINGS, elsewhere={"text_to_image": other}.__getitem__)
    assert other.values()["prompt"] == "a dog" and other.values()["seed"] == 7


def test_a_clip_on_a_field_of_its_own_stage_is_an_input(talk: SpeechToVideo, tmp_path: Path) -> None:
    form = Form(SpeechToVideo)
    clip = made_runs.clip(tmp_path / "talking.mp4", 0.5, side=32)
    assert dropped(form, clip, "audio") == "" and form.values()["audio"] == str(clip)


def test_values_of_another_release_are_named_and_the_others_shown(tmp_path: Path) -> None:
    class Newer(TextToImage):
        def to_json(self) -> dict[str, Any]:
            return {**super().to_json(), "num_inference_steps": 99, "sharpness": 3, "stage": "text_to_image"}

    picture = made_by(Newer(prompt="a dog", profile="pocket", width=128, height=128), tmp_path / "dog.png")
    form = Form(TextToImage)
    dropped(form, picture)
    assert form.values()["prompt"] == "a dog" and form.values()["width"] == 128
    assert form.problems() == {"num_inference_steps": "must be an integer from 1 to 12 (got 99)"}
    assert "sharpness: there is no such field" in alerts(form)


def uploaded(zone: DropZone, file: Path, field: str = "") -> None:
    """Send a file as the page does; it is taken before this returns."""
    zone.send = lambda *_: None
    data = file.read_bytes()
    zone.receive({"kind": "begin", "id": "1", "name": file.name, "size": len(data), "field": field})
    zone.receive({"kind": "chunk", "id": "1", "offset": 0}, [memoryview(data)])


def left(zone: DropZone) -> list[str]:
    return [path.name for path in zone.folder.iterdir() if not path.name.startswith(".")]


def test_a_foreign_file_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    form = Form(TextToImage, prompt="kept")
    zone = DropZone("wl-panel", SAYS_HOW, partial(take_into, form))
    foreign = made_runs.picture(tmp_path / "foreign.png", side=32)
    uploaded(zone, foreign)
    said = "foreign.png does not say how it was made: WanAvatar Lab did not make it, or another program saved it anew."
    assert (zone.error, zone.said, form.values()["prompt"]) == (said, "", "kept")
    zone.receive({"kind": "dismiss"})
    assert zone.error == ""
    language.code = "zh"
    uploaded(zone, foreign)
    assert zone.error.startswith("foreign.png 中没有生成设置") and left(zone) == []


def test_of_an_upload_only_an_input_is_kept(talk: SpeechToVideo, tmp_path: Path) -> None:
    form = Form(SpeechToVideo)
    zone = DropZone("wl-panel", form.takes, partial(take_into, form))
    clip = made_by(talk, tmp_path / "kept.mp4")
    uploaded(zone, clip)
    assert zone.said == "Settings of kept.mp4 are in the form." and left(zone) == ["voice.wav"]
    uploaded(zone, clip, "audio")
    assert (zone.said, zone.error) == ("", "") and form.values()["audio"] == str(zone.folder / "kept.mp4")
    uploaded(zone, clip, SETTINGS)
    assert sorted(left(zone)) == ["kept.mp4", "voice.wav"]


def test_a_result_is_dragged_by_its_run(talk: SpeechToVideo) -> None:
    async def person() -> None:
        form = Form(SpeechToVideo)
        zone = DropZone("wl-panel", form.takes, partial(take_into, form))
        picture = talk.input_files()["image"]
        zone.receive({"kind": "result", "run": picture.parent.name, "file": "picture.png", "field": "image"})
        await until(lambda: form.values()["image"])
        assert form.values()["image"] == str(picture) and picture.is_file()
        for run, file in ((picture.parent.name, "../status.json"), ("../x", "picture.png")):
            zone.receive({"kind": "result", "run": run, "file": file, "field": "image"})
            assert "has no result" in zone.error or "There is no run" in zone.error

    asyncio.run(person())


@pytest.mark.parametrize("make", [GalleryPanel, Page])
def test_on_the_gallery_the_panel_of_the_stage_is_opened(make: Any, tmp_path: Path) -> None:
    host = make()
    if isinstance(host, Page):
        host._tab.selected_index = len(host.tabs) - 1
    (zone,) = [each for each in everything(host) if isinstance(each, DropZone) and each.around == "wl-results"]
    uploaded(zone, made_by(TextToImage(prompt="a dog", profile="pocket"), tmp_path / "dog.png"))
    assert (zone.error, host.stage_in_use) == ("", "text_to_image")
    shown = host.open_panel("text_to_image")
    assert isinstance(shown, Panel) and shown.form.values()["prompt"] == "a dog"
    assert left(zone) == []
    host.close()
