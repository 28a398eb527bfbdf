"""The gallery of a notebook: what was made is taken up again in a panel below it."""

from pathlib import Path
from typing import Any

import pytest

from tests.lora.files import save, tiny
from tests.ui import made_runs
from wanavatar_lab.errors import RequestError
from wanavatar_lab.jobs import Job, list_jobs
from wanavatar_lab.requests import SpeechToVideo, TextToImage, Upscale
from wanavatar_lab.runs.run import Run
from wanavatar_lab.ui.gallery_panel import GalleryPanel


@pytest.fixture(autouse=True)
def served(queue_settings: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(queue_settings.parent))
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(queue_settings.parent / "weights"))
    return queue_settings.parent


@pytest.fixture
def runs(served: Path) -> list[Run]:
    """A picture, and the talking clip made of it."""
    face, voice = made_runs.picture(served / "made.png", side=64), made_runs.sound(served / "voice.wav")
    first = made_runs.ended_run(TextToImage(prompt="An old sailor", profile="pocket"), [("picture", face)], ago=20)
    clip = made_runs.clip(served / "talking.mp4", 0.5, side=64)
    request = SpeechToVideo(image=str(first.folder / "made.png"), audio=str(voice), prompt="he speaks", seed=3)
    return [first, made_runs.ended_run(request, [("talking", clip)], ago=10)]


def hear(panel: GalleryPanel, **content: Any) -> None:
    panel.gallery.receive(content)


def below(panel: GalleryPanel) -> list[Any]:
    return list(panel.children[-1].children)


def test_what_is_found_is_listed_and_the_newest_is_for_the_next_cell(runs: list[Run]) -> None:
    panel = GalleryPanel()
    assert panel.artifact == runs[1].folder / "talking.mp4"
    clip, picture, count = panel.listing().splitlines()
    assert f"Speech to video  he speaks  runs/{runs[1].id}/talking.mp4" in clip
    assert f"Text to image  An old sailor  runs/{runs[0].id}/made.png" in picture
    assert count == "2 of 2"
    panel = GalleryPanel(kind="picture", query="sailor")
    assert panel.artifact == runs[0].folder / "made.png"
    assert GalleryPanel(query="nobody").artifact is None


def test_a_kind_that_there_is_not_is_refused() -> None:
    with pytest.raises(RequestError, match=r"kind: 'talkin' is not a kind of artifact; did you mean 'talking'\?"):
        GalleryPanel(kind="talkin")


def test_a_file_goes_to_a_panel_that_takes_it(runs: list[Run]) -> None:
    panel = GalleryPanel()
    assert below(panel) == []
    hear(panel, kind="use", run=runs[0].id)
    (first,) = below(panel)
    assert first.form.request_class is SpeechToVideo
    assert first.form.values()["image"] == str(runs[0].folder / "made.png")
    assert panel.panel is first
    assert panel.artifact == runs[0].folder / "made.png"
    hear(panel, kind="change", run=runs[0].id)
    (second,) = below(panel)
    assert second.form.request() == TextToImage(prompt="An old sailor", profile="pocket", seed=7)
    hear(panel, kind="use", run=runs[0].id)  # which text to image has no use for
    assert below(panel)[0].form.request_class is SpeechToVideo
    panel.change(Upscale(image=str(runs[0].folder / "made.png"), profile="pocket"))
    (third,) = below(panel)
    hear(panel, kind="use", run=runs[0].id)
    assert below(panel) == [third]  # the panel that is open takes it


def test_a_run_is_run_again(runs: list[Run], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def submit(request: Any) -> Job:
        asked.append(request)
        return Job(runs[0])

    monkeypatch.setattr("wanavatar_lab.jobs.submit", submit)
    panel = GalleryPanel()
    hear(panel, kind="again", run=runs[0].id)
    assert asked == [TextToImage(prompt="An old sailor", profile="pocket", seed=7)]
    assert len(list_jobs()) == 2


def test_a_lora_is_found_and_used(served: Path, runs: list[Run]) -> None:
    tensors = tiny("diffusion_model.blocks.0.self_attn.q", inputs=5120, rank=1)
    path = save(served / "weights/loras/mov/character/ann.safetensors", tensors)
    path.with_suffix(".txt").write_text("ohwx woman")
    made_runs.picture(path.with_suffix(".png"), side=32)
    panel = GalleryPanel(kind="lora")
    assert panel.gallery.kinds == ["picture", "talking", "lora"]
    (entry,) = panel.gallery.entries
    assert entry["title"] == "ann · Wan-14B · ohwx woman"
    assert entry["picture"] == {"path": "weights/loras/mov/character/ann.png", "kind": "picture"}
    assert entry["usable"]
    assert not entry["ended"] and not entry["known"]  # it is no run: nothing to delete, nothing to run again
    panel.gallery.kind, panel.gallery.query = "", "ohwx"
    assert [each["id"] for each in panel.gallery.entries] == [entry["id"]]
    panel.gallery.query = ""
    assert panel.gallery.total == 3
    hear(panel, kind="use", run=entry["id"])
    (opened,) = below(panel)
    assert (opened.form.request_class.stage, opened.form.profile) == ("image_to_video", "full")
    assert [each["name"] for each in opened.form.controls["loras"].value] == ["ann"]
    assert panel.gallery.notice == ""
