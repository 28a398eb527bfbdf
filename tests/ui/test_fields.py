"""Controls: the value in the request's own terms, names, help, errors, the language."""

from dataclasses import replace
from typing import Any

import ipywidgets as widgets
import pytest

from tests.ui.looking import NAMED, alerts, everything, named, text
from wanavatar_lab.requests import LANGUAGES, STAGE_REQUESTS, ImageToVideo, SpeechToVideo, TextToImage, fields_of
from wanavatar_lab.ui.fields import Control, range_of
from wanavatar_lab.ui.form import CONTROLS, Form
from wanavatar_lab.ui.language import language


def control(request_class: Any, name: str) -> Control:
    view = fields_of(request_class)[name]
    return CONTROLS[view.widget](view, request_class)


@pytest.mark.parametrize(
    ("request_class", "name", "value"),
    [
        (TextToImage, "prompt", "a cat\non a mat"),
        (TextToImage, "aspect", "landscape"),
        (TextToImage, "width", 128),
        (TextToImage, "width", None),
        (TextToImage, "seed", 2**32 - 1),
        (TextToImage, "upscale", False),
        (ImageToVideo, "flow_shift", 3.25),
        (ImageToVideo, "resolution", "auto"),
        (ImageToVideo, "resolution", "720p"),
        (ImageToVideo, "resolution", "480x832"),
        (ImageToVideo, "resolution", "96x64"),
        (ImageToVideo, "resolution", "nonsense"),
        (SpeechToVideo, "flow_shift", None),
        (SpeechToVideo, "pose_video", None),
        (SpeechToVideo, "pose_video", "somewhere/pose.mp4"),
        (SpeechToVideo, "audio", "korean.wav"),
    ],
)
def test_a_value_comes_back_as_it_went_in_whatever_the_language(request_class: Any, name: str, value: Any) -> None:
    made = control(request_class, name)
    heard: list[Any] = []
    made.on_change(lambda: heard.append(made.value))
    made.value = value
    assert made.value == value
    for language.code in LANGUAGES:
        assert made.value == value
    assert heard == []  # no person did anything


@pytest.mark.parametrize(
    ("label", "unit", "shown"),
    [
        ("Voice length", "s", "Voice length (s)"),
        ("Pauses", "s", "Pauses (s)"),
        ("Steps", "steps", "Steps"),
        ("Frames per segment", "frames", "Frames per segment"),
    ],
)
def test_a_unit_is_shown_unless_it_is_a_word_of_the_label(label: str, unit: str, shown: str) -> None:
    view = fields_of(SpeechToVideo)["audio_duration"]
    view = replace(view, labels=dict.fromkeys(LANGUAGES, label), unit_labels=dict.fromkeys(LANGUAGES, unit))
    assert CONTROLS[view.widget](view, SpeechToVideo).label == shown


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({"minimum": 1.0, "maximum": 100.0}, "1 to 100"),
        ({"minimum": -1, "maximum": 2**32 - 1}, "-1 to 4294967295"),
        ({"above": 0.0, "maximum": 20.0}, "above 0, up to 20"),
        ({"above": 0.0}, "above 0"),
        ({"minimum": 0.5}, "at least 0.5"),
        ({"maximum": 3}, "at most 3"),
        ({"minimum": 4, "maximum": 400, "step": 4}, "4 to 400, in steps of 4"),
        ({}, ""),
    ],
)
def test_the_range_of_a_number_is_said(values: dict[str, Any], shown: str) -> None:
    bounds: dict[str, Any] = {"minimum": None, "above": None, "maximum": None}
    view = replace(fields_of(SpeechToVideo)["flow_shift"], **bounds | values)
    assert range_of(view) == shown
    assert shown in text(CONTROLS[view.widget](view, SpeechToVideo))


@pytest.mark.parametrize("code", LANGUAGES)
@pytest.mark.parametrize("stage", STAGE_REQUESTS)
def test_every_input_has_a_name_of_its_own_and_every_button_words(stage: str, code: str) -> None:
    form = Form(STAGE_REQUESTS[stage])
    language.code = code
    inputs = [each for each in everything(form) if isinstance(each, NAMED)]
    names = [each.description for each in inputs]
    assert all(name.strip() for name in names)
    unlike = {name for name in names if names.count(name) > 1}
    assert {each.description for each in inputs if not isinstance(each, widgets.Button)} & unlike == set()
    # these have no name for a screen reader, whatever their description
    assert not any(isinstance(each, widgets.IntSlider | widgets.FloatSlider | widgets.Accordion) for each in inputs)
    for field in form.controls.values():
        assert field.view.labels[code] in "\n".join([*names, text(field)])
        assert field.view.help[code] in text(field) or field.view.group == "advanced"


def test_help_and_unit_stand_there_to_be_read() -> None:
    made = control(ImageToVideo, "frame_num")
    assert "always 4n + 1" in text(made)
    assert named(made, "Frames").value == 5
    language.code = "ko"
    assert named(made, "프레임 수").value == 5


def test_a_number_that_may_be_left_open_says_so() -> None:
    made = control(SpeechToVideo, "audio_duration")
    number, automatic = named(made, "Voice length (s)"), named(made, "Voice length: automatic")
    assert (made.value, number.disabled, automatic.value) == (None, True, True)
    automatic.value = False
    number.value = 2.5
    assert (made.value, number.disabled) == (2.5, False)
    language.code = "zh"
    assert (made.value, automatic.description) == (2.5, "语音时长：自动")


def test_the_dice_draws_a_seed_that_can_be_used_again() -> None:
    made = control(TextToImage, "seed")
    heard: list[Any] = []
    made.on_change(lambda: heard.append(made.value))
    made.value = -1
    for _ in range(3):
        named(made, "Randomise").click()
    assert len(set(heard)) == 3
    assert all(0 <= seed < 2**32 for seed in heard)


def test_a_size_of_ones_own_is_asked_for_only_when_it_is_wanted() -> None:
    made = control(ImageToVideo, "resolution")
    choice = named(made, "Resolution (px)")
    made.value = "128x128"
    assert (choice.label, len([each for each in everything(made) if isinstance(each, widgets.Text)])) == (
        "128 × 128",
        1,
    )
    choice.value = dict(choice.options)["Custom…"]
    named(made, "Resolution: width x height").value = "96x64"
    assert made.value == "96x64"
    choice.value = "480p"
    assert made.value == "480p"


def test_arrows_reach_allowed_numbers_only_where_a_browser_can_count_so() -> None:
    # a browser counts steps from 0
    assert named(control(SpeechToVideo, "frames_per_segment"), "Frames").step == 4
    assert named(control(ImageToVideo, "frame_num"), "Frames").step == 1  # 4n + 1


def test_an_error_is_said_under_the_control_and_taken_away() -> None:
    made = control(TextToImage, "prompt")
    made.error = "must be text (got '<b>')"
    assert alerts(made).count("must be text (got '<b>')") == 1
    made.error = ""
    assert (alerts(made), made.error) == ("", "")


def test_a_closed_control_follows_the_language_no_more() -> None:
    made = control(TextToImage, "prompt")
    box = named(made, "Prompt")
    made.close()
    made.close()
    language.code = "ko"
    assert box.description == "Prompt"
