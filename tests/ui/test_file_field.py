"""Choosing a file: samples, earlier results, frames of videos, uploads, paths."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.ui.looking import alerts, everything, named, text
from wanavatar_lab import media
from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import ImageToVideo, SpeechToVideo, TextToImage, Upscale
from wanavatar_lab.runs.run import Run
from wanavatar_lab.runs.status import Artifact, Status
from wanavatar_lab.ui import file_field
from wanavatar_lab.ui.form import Form
from wanavatar_lab.ui.history import Strip
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.widget import contents

RED, BLUE = (200, 30, 30), (30, 30, 200)


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path


def made(request: Any, kind: str, name: str, at: float) -> Path:
    """A file of a run that has succeeded, to be written."""
    run = Run.create(request)
    artifact = Artifact(kind=kind, path=name)
    run.write_status(Status(state="succeeded", submitted_at=at, artifacts=[artifact]))
    return run.path(artifact)


def red_then_blue(path: Path) -> Path:
    with media.VideoWriter(path, fps=10) as writer:
        for colour in [RED] * 10 + [BLUE] * 10:
            writer.write(np.full((64, 64, 3), colour, np.uint8))
    return path


def near(path: str, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.asarray(media.read_picture(path), int) - colour).max() < 30)


def choose(form: Form, label: str, way: str) -> Any:
    """The box of a field, after choosing where its file comes from."""
    ways = named(form, label)
    ways.value = dict(ways.options)[way]
    return ways


def test_samples_that_ship_can_be_chosen() -> None:
    form = Form(SpeechToVideo)
    named(form, "Picture: Sample").label = "avatar_woman.png"
    named(form, "Voice: Sample").label = "korean.wav"
    request = form.request()
    assert isinstance(request, SpeechToVideo)
    assert [path.name for path in request.input_files().values()] == ["avatar_woman.png", "korean.wav"]
    choose(form, "Voice", "File path")  # what was chosen counts until something else is
    assert "korean.wav" in text(form.controls["audio"])


def test_a_file_that_comes_from_elsewhere_is_shown_as_a_path(place: Path) -> None:
    form = Form(SpeechToVideo)
    named(form, "Picture: Sample").label = "avatar_woman.png"
    face = place / "face.png"
    Image.new("RGB", (64, 64)).save(face)
    form.take(face)
    assert named(form, "Picture").label == "File path"
    assert named(form, "Picture: File path").value == form.controls["image"].value == str(face)


def test_a_sample_is_named_from_anywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    form = Form(SpeechToVideo, audio=file_field.sample("korean.wav"))
    assert named(form, "Voice: Sample").label == "korean.wav"
    with pytest.raises(LabError, match="There is no sample 'klingon"):
        file_field.sample("klingon.wav")


def test_earlier_results_are_listed_newest_first(place: Path) -> None:
    cat = TextToImage(profile="pocket", prompt="a cat that sits on a mat and looks at a bird outside")
    first = made(cat, "picture", "picture.png", at=100.0)
    second = made(cat, "picture", "picture.png", at=200.0)
    made(cat, "audio", "sound.wav", at=300.0)
    Image.new("RGB", (64, 64)).save(first)
    form = Form(Upscale)
    choose(form, "Picture", "Earlier result")
    box = named(form, "Picture: Earlier result")
    assert [value for _, value in box.options] == ["", str(second), str(first)]
    assert box.options[1][0].startswith("Text to image · 1970-01-01 ")
    assert " · a cat that sits on a mat and looks at a…" in box.options[1][0]
    box.value = str(first)
    assert form.controls["image"].value == str(first) and form.touched == {"profile", "image"}
    language.code = "zh"
    assert (box.value, form.controls["image"].value) == (str(first), str(first))
    third = made(cat, "picture", "picture.png", at=400.0)
    named(form, "刷新").click()
    assert box.options[1][1] == str(third) and box.value == str(first)


def test_samples_are_chosen_by_their_thumbnails(place: Path) -> None:
    form = Form(SpeechToVideo)
    form.make_all()
    picture, box = form.controls["image"], named(form, "Picture: Sample")
    (strip,) = [each for each in contents(picture) if isinstance(each, Strip)]
    assert [Path(item["id"]).name for item in strip.items] == [path.name for path in file_field.samples("picture")]
    strip.chosen = strip.items[1]["id"]
    assert picture.value == box.value == strip.items[1]["id"]
    box.value = strip.items[0]["id"]
    assert strip.chosen == picture.value == strip.items[0]["id"]
    assert not [each for each in contents(form.controls["audio"]) if isinstance(each, Strip)]


def test_a_video_gives_a_frame(place: Path) -> None:
    clip = red_then_blue(made(ImageToVideo(profile="pocket", image="a.png"), "video", "clip.mp4", at=1.0))
    form = Form(Upscale)
    choose(form, "Picture", "Earlier result")
    named(form, "Picture: Earlier result").value = str(clip)
    assert near(form.controls["image"].value, RED)
    named(form, "Picture: frame at (s)").value = 1.5
    named(form, "Use this frame").click()
    assert near(form.controls["image"].value, BLUE)
    assert Path(form.controls["image"].value).parent == place / "data" / "uploads"
    assert form.request() is not None
    named(form, "Picture: frame at (s)").value = 60
    named(form, "Use this frame").click()
    assert "no frame at 60 s" in alerts(form)
    assert near(form.controls["image"].value, BLUE)
    (place / "data").rename(place / "aside")
    (place / "data").touch()  # in whose place there can be no folder
    named(form, "Picture: frame at (s)").value = 0.5
    named(form, "Use this frame").click()
    assert str(place / "data" / "uploads") in alerts(form)


def test_a_path_can_be_typed_and_taken_back(place: Path) -> None:
    form = Form(SpeechToVideo)
    form.expand()
    path = named(form, "Pose video: File path")  # there is no sample of it
    path.value = "poses/walk.mp4"
    assert form.controls["pose_video"].value == "poses/walk.mp4"
    path.value = ""
    assert form.controls["pose_video"].value is None


def test_what_was_chosen_before_can_be_chosen_again() -> None:
    form = Form(Upscale)
    sample = named(form, "Picture: Sample")
    sample.label = "avatar_man.png"
    choose(form, "Picture", "File path")
    named(form, "Picture: File path").value = "other.png"
    assert form.controls["image"].value == "other.png"
    choose(form, "Picture", "Sample")
    assert sample.value == ""
    sample.label = "avatar_man.png"
    assert Path(form.controls["image"].value).name == "avatar_man.png"


def test_an_upload_is_made_when_it_is_wanted_and_gives_its_path(place: Path) -> None:
    from wanavatar_lab.ui.uploads import Upload

    form = Form(Upscale)
    assert not any(isinstance(each, Upload) for each in everything(form))
    choose(form, "Picture", "Upload a file")
    (upload,) = [each for each in everything(form) if isinstance(each, Upload)]
    assert {".png", ".mp4"} <= set(upload.accept.split(",")) and ".wav" not in upload.accept
    Image.new("RGB", (64, 64), RED).save(place / "face.png")
    upload.path = str(place / "face.png")
    assert form.controls["image"].value == str(place / "face.png")
    upload.path = ""  # another one begins to arrive
    assert form.controls["image"].value == str(place / "face.png")
    upload.path = str(red_then_blue(place / "clip.mp4"))
    assert near(form.controls["image"].value, RED) and form.controls["image"].value.endswith(".png")


def test_a_file_is_seen_and_a_damaged_one_is_said(place: Path) -> None:
    from wanavatar_lab.ui.player import Player

    Image.new("RGB", (64, 64), RED).save(place / "face.png")
    (place / "broken.png").write_bytes(b"not a picture")
    form = Form(Upscale, image=str(place / "face.png"))
    (player,) = [each for each in everything(form) if isinstance(each, Player)]
    assert player.paths == ["face.png"]
    named(form, "Picture: File path").value = str(place / "broken.png")
    assert not any(isinstance(each, Player) for each in everything(form))
    assert "broken.png" in alerts(form)


def test_a_part_of_the_voice_is_chosen_on_its_waveform(place: Path) -> None:
    from wanavatar_lab.ui.waveform import Waveform

    time = np.arange(16_000 * 4) / 16_000
    tone = (0.5 * np.sin(2 * np.pi * 220 * time)).astype(np.float32)
    media.write_audio(place / "voice.wav", media.Audio(tone[:, None], 16_000))
    form = Form(SpeechToVideo, audio=str(place / "voice.wav"), audio_start=1.0)
    (waveform,) = [each for each in everything(form) if isinstance(each, Waveform)]
    assert (waveform.start, waveform.end) == (1.0, 4.0)
    waveform.end = 3.0
    assert (form.values()["audio_start"], form.values()["audio_duration"]) == (1.0, 2.0)
    assert "audio_duration" in form.touched
    form.expand()
    named(form, "Voice from (s)").value = 1.5
    assert (waveform.start, waveform.end) == (1.5, 3.5)
    waveform.choose(0.0, None)
    assert (form.values()["audio_start"], form.values()["audio_duration"]) == (0.0, None)
