"""The tab of the tools: one panel at a time, which keeps what was typed, and opens for files from elsewhere."""

from pathlib import Path

import pytest

from tests.tools.clips import sound, video
from tests.ui.looking import everything, named, text
from wanavatar_lab.requests import TOOLS, Trim
from wanavatar_lab.ui.form import Form
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.page import Page
from wanavatar_lab.ui.panel import Panel
from wanavatar_lab.ui.tools import ToolPanels
from wanavatar_lab.ui.waveform import Waveform


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path


def shown(tools: ToolPanels) -> list[str]:
    return [each.form.request_class.stage for each in everything(tools) if isinstance(each, Panel)]


def test_one_panel_is_shown_and_the_others_keep_what_was_typed() -> None:
    tools = ToolPanels()
    choice = named(tools, "Tool")
    assert shown(tools) == ["extract_audio"] and len(choice.options) == len(TOOLS)
    choice.value = "trim"
    named(tools, "Start (s)").value = 2.5
    choice.value = "resample"
    assert shown(tools) == ["resample"]
    language.code = "ko"
    assert shown(tools) == ["resample"] and dict(choice.options)["자르기"] == "trim"
    assert tools.choose("trim").form.values()["start"] == 2.5
    language.code = "en"


def test_a_result_opens_the_tool_that_it_is_sent_to(place: Path) -> None:
    page = Page()
    clip = video(place / "clip.mp4", 4)
    form = page.form_of("interpolate_frames")
    form.take(clip)
    tools = page._places[page._tab.selected_index].children[0]
    assert page.stage_in_use == "interpolate_frames" and shown(tools) == ["interpolate_frames"]
    page.use(clip)  # from the gallery, into the panel in use
    assert form.values()["video"] == str(clip) and tools.panel.form is form
    assert page.open_panel("upscale").form.request_class.stage == "upscale"


def test_a_recording_is_cut_at_its_waveform_and_a_clip_is_played(place: Path) -> None:
    form = Form(Trim, media=str(sound(place / "v.wav", 32_000, 16_000)))
    (waveform,) = [each for each in everything(form) if isinstance(each, Waveform)]
    waveform.start, waveform.end = 0.5, 1.25
    assert (form.values()["start"], form.values()["duration"]) == (0.5, 0.75)
    form.set(media=str(video(place / "clip.mp4", 4)))
    assert not [each for each in everything(form) if isinstance(each, Waveform)]


def test_a_form_of_a_tool_has_no_models_to_choose() -> None:
    form = Form(Trim, media="a.wav", start=1.0)
    assert "Models" not in text(form) and form.chosen() == {"media": "a.wav", "start": 1.0}
    form.reset()
    assert form.values() == {"media": "", "start": 0.0, "duration": None}
    form.fill(Trim(media="b.wav", duration=3.0))
    assert form.values() == {"media": "b.wav", "start": 0.0, "duration": 3.0} and form.profile == "full"
