"""The form: everything that a request says of its fields, and nothing else."""

import asyncio
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest

from tests.ui.looking import alerts, named, shown, text
from wanavatar_lab.errors import LabError, RequestError
from wanavatar_lab.media import VideoWriter
from wanavatar_lab.requests import (
    LANGUAGES,
    STAGE_REQUESTS,
    ImageToVideo,
    SpeechToVideo,
    TextToImage,
    Upscale,
    plain_defaults,
)
from wanavatar_lab.requests.field_spec import spec
from wanavatar_lab.ui.file_field import sample
from wanavatar_lab.ui.form import Form
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.parameters import chosen


class Warmer(TextToImage):
    """A request with one more field, of which no widget knows."""

    stage: ClassVar[str] = "text_to_image"

    warmth: Annotated[
        float,
        spec(
            widget="float",
            ge=0.0,
            le=2.0,
            unit="s",
            group="advanced",
            label={"en": "Warmth", "ko": "따뜻함", "zh": "暖度"},
            help={"en": "How warm the light is.", "ko": "빛이 얼마나 따뜻한지 정합니다.", "zh": "光线有多暖。"},
        ),
    ] = 0.5


def words_of(request_class: Any, **values: Any) -> dict[str, str]:
    """What every face says of these values."""
    with pytest.raises(RequestError) as caught:
        request_class(**values)
    return dict(caught.value.problems)


def test_a_new_field_appears_with_no_line_of_code() -> None:
    form = Form(Warmer, prompt="a cat")
    form.expand()
    box = named(form, "Warmth (s)")
    assert (box.value, "0 to 2<" in text(form)) == (0.5, True)
    assert "How warm the light is." in text(form)
    language.code = "ko"
    assert box.description == "따뜻함(초)"
    box.value = 1.25
    request = form.request()
    assert isinstance(request, Warmer) and request.warmth == 1.25


@pytest.mark.parametrize("profile", ["full", "pocket"])
@pytest.mark.parametrize("stage", STAGE_REQUESTS)
def test_it_begins_with_the_defaults_of_the_profile(stage: str, profile: str) -> None:
    values = {
        name: "auto" if value is None else value
        for name, value in Form(STAGE_REQUESTS[stage], profile=profile).values().items()
    }
    expected = {
        name: "auto" if value == "" and values[name] == "auto" else value
        for name, value in plain_defaults(stage, profile).items()
    }
    assert values == expected


def test_another_profile_brings_its_defaults_to_what_nobody_touched() -> None:
    form = Form(ImageToVideo, prompt="she nods")
    named(form, "Steps").value = 3
    named(form, "Models").value = "full"
    values = form.values()
    assert (values["num_inference_steps"], values["prompt"]) == (3, "she nods")
    assert (values["frame_num"], values["resolution"], values["guidance_scale"]) == (81, "auto", 5.0)
    assert "最差质量" in values["negative_prompt"]
    form.set(profile="pocket")
    assert (form.values()["num_inference_steps"], form.values()["frame_num"]) == (3, 49)


def test_the_request_names_what_was_chosen_and_leaves_the_rest_to_defaults() -> None:
    form = Form(TextToImage, prompt="a cat", seed=5)
    request = form.request()
    assert request is not None
    assert request.named() == {"profile": "pocket", "prompt": "a cat", "seed": 5}
    assert form.problems() == {} and alerts(form) == ""


def test_what_is_wrong_stands_at_its_field_in_the_words_of_every_face() -> None:
    form = Form(ImageToVideo, image="nowhere.png")
    assert form.request() is None
    assert form.problems() == {"image": "'nowhere.png' does not exist; give the path of a picture file"}
    named(form, "Frames").value = 80
    named(form, "Resolution (px)").value = "other"
    named(form, "Resolution: width x height").value = "100x100"
    assert form.request() is None
    said = words_of(ImageToVideo, profile="pocket", image="nowhere.png", frame_num=80, resolution="100x100")
    assert form.problems() == said
    for message in said.values():
        assert message in alerts(form)


def test_a_wrong_value_is_said_at_once_and_taken_back_with_it() -> None:
    form = Form(ImageToVideo)
    frames = named(form, "Frames")
    frames.value = 80
    assert list(form.problems()) == ["frame_num"]  # not the picture, which nobody has come to yet
    frames.value = 81
    assert form.problems() == {}


def test_fields_at_odds_are_both_right_again_when_one_is() -> None:
    form = Form(TextToImage, prompt="a cat")
    form.expand()
    named(form, "Width: automatic").value = False
    assert form.request() is None
    assert form.problems() == {"height": "is required with width 64; give both, or neither to use the aspect"}
    named(form, "Width: automatic").value = True
    assert form.problems() == {}


def test_fields_one_sets_seldom_are_behind_a_button_that_says_so() -> None:
    form = Form(SpeechToVideo)
    button = named(form, "▸ More settings")
    assert not any(each is form.controls["flow_shift"] for each in shown(form))
    button.click()
    assert button.description == "▾ Fewer settings"
    assert any(each is form.controls["flow_shift"] for each in shown(form))
    button.click()
    assert button.description == "▸ More settings"


def test_an_error_at_a_hidden_field_brings_it_to_light() -> None:
    form = Form(SpeechToVideo, image="a.png", audio="a.wav", pose_video="nowhere.mp4")
    assert form.request() is None
    assert form.expanded and "'nowhere.mp4' does not exist" in alerts(form)


def test_errors_of_no_field_stand_above() -> None:
    form = Form(TextToImage)
    form.show(LabError("There is no room in /runs. Free some."))
    assert "There is no room in /runs." in alerts(form)
    form.show(RequestError([("loras[0].name", "'ann' is not there; put the file into loras")]))
    assert form.problems() == {"loras": "[0].name: 'ann' is not there; put the file into loras"}
    form.show(None)
    assert alerts(form) == ""


@pytest.mark.parametrize(
    "values", [{"num_inference_steps": 1000}, {"seed": "x"}, {"promt": "a"}, {"aspect": "round"}, {"loras": ["a", "a"]}]
)
def test_values_from_a_program_are_refused_as_everywhere(values: dict[str, Any]) -> None:
    said = words_of(TextToImage, prompt="a", **values)
    with pytest.raises(RequestError) as caught:
        Form(TextToImage, **values)
    assert dict(caught.value.problems) == said
    form = Form(TextToImage, prompt="a cat")
    before = form.values()
    with pytest.raises(RequestError):
        form.set(prompt="another", **values)
    assert form.values() == before


def test_a_profile_that_is_not_there_is_refused() -> None:
    with pytest.raises(RequestError, match=r"profile: must be .*'huge'"):
        Form(TextToImage, profile="huge")


def test_none_leaves_a_field_to_the_profile() -> None:
    form = Form(ImageToVideo, num_inference_steps=None, image=None, flow_shift=None)
    assert form.values()["num_inference_steps"] == 8
    form.set(profile="full")
    assert form.values()["num_inference_steps"] == 40


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (99.0, "must be an integer from 1 to 12 (got 99)"),
        (0.0, "must be an integer from 1 to 12 (got 0)"),
        (1.5, "must be an integer from 1 to 12 (got 1.5)"),
    ],
)
def test_a_number_out_of_its_range_stays_as_typed_and_is_refused_with_the_range(number: float, message: str) -> None:
    form = Form(TextToImage, prompt="a cat")
    steps = named(form, "Steps")
    steps.value = number
    assert form.problems() == {"num_inference_steps": message}
    assert "1 to 12" in text(form) and message in alerts(form)
    assert form.request() is None and steps.value == number
    steps.value = 12.0
    assert form.problems() == {} and form.request() == TextToImage(
        prompt="a cat", profile="pocket", num_inference_steps=12
    )


def test_text_is_read_as_everywhere() -> None:
    form = Form(SpeechToVideo, num_inference_steps="3", flow_shift="auto", start_from_image="true", resolution="128X96")
    values = form.values()
    assert (values["num_inference_steps"], values["flow_shift"], values["start_from_image"]) == (3, None, True)
    assert values["resolution"] == "128x96"


def test_a_video_takes_the_place_of_the_picture(tmp_path: Path) -> None:
    voice = sample("korean.wav")
    form = Form(SpeechToVideo, audio=str(voice), num_inference_steps="3")
    assert form.request() is None
    assert form.problems() == {"image": "is required, unless a video is given: the path of a picture file"}
    language.code = "ko"
    assert "영상을 넣지 않으면 반드시 입력해야 합니다" in alerts(form)
    with VideoWriter(tmp_path / "talk.mp4", fps=16) as writer:
        writer.write(np.zeros((64, 64, 3), np.uint8))
    form.set(video=str(tmp_path / "talk.mp4"))
    wanted = {"video": str(tmp_path / "talk.mp4"), "audio": str(voice), "num_inference_steps": 3}
    assert form.request() == SpeechToVideo(profile="pocket", **wanted)
    assert form.problems() == {}


def test_changing_the_language_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "face.png").write_bytes(b"-")
    form = Form(SpeechToVideo, image=str(tmp_path / "face.png"))
    form.expand()
    named(form, "Prompt").value = "한국어로 말한다"
    named(form, "Flow shift: automatic").value = False
    named(form, "Flow shift").value = 4.5
    named(form, "Offload").value = "group"
    before = form.values()
    for language.code in (*reversed(LANGUAGES), *LANGUAGES):
        assert form.values() == before
    assert form.touched == {"profile", "image", "prompt", "flow_shift", "offload"}


def test_a_form_that_is_refused_leaves_nothing_behind() -> None:
    def followers() -> int:
        return len(language._trait_notifiers.get("code", {}).get("change", []))

    before = followers()
    with pytest.raises(RequestError):
        Form(TextToImage, seed="x")
    Form(TextToImage).close()
    assert followers() == before


def test_a_control_that_there_is_none_of_is_said() -> None:
    class Odd(TextToImage):
        tune: Annotated[str, spec(widget="piano", label="a", help="")] = ""

    with pytest.raises(LabError, match=r"Odd.tune asks for the control 'piano'; there are text, "):
        Form(Odd)


def test_a_request_fills_the_form_and_what_is_usual_stays_usual() -> None:
    form = Form(TextToImage, prompt="a dog", num_inference_steps=2)
    request = TextToImage(profile="pocket", prompt="a cat", seed=3, width=128, height=64, loras=["ann:0.5"])
    form.fill(TextToImage.from_json(request.to_json()))  # every field of which is named
    assert form.touched == {"profile", "prompt", "seed", "width", "height", "loras"}
    assert form._request() == request
    form.set(profile="full")
    assert form.values()["aspect"] == "portrait"
    with pytest.raises(RequestError, match=r"stage: must be 'text_to_image' \(got 'upscale'\)"):
        form.fill(Upscale(profile="pocket", image="a.png"))


def test_a_file_goes_to_the_field_that_it_is_for(tmp_path: Path) -> None:
    form = Form(SpeechToVideo)
    form.take(tmp_path / "voice.WAV")
    form.take(tmp_path / "face.png")
    assert (form.values()["audio"], form.values()["image"]) == (str(tmp_path / "voice.WAV"), str(tmp_path / "face.png"))
    with pytest.raises(LabError, match=r"Speech to video has no use for notes.txt"):
        form.take("notes.txt")
    Form(Upscale).take("mine.safetensors")


def test_a_notebook_gives_its_parameters_by_name() -> None:
    names = {"profile": "full", "prompt": "a cat", "num_inference_steps": "default", "seed": 2, "interactive": True}
    assert chosen(TextToImage, names) == {"profile": "full", "prompt": "a cat", "seed": 2}


FACE, VOICE = sample("avatar_woman.png"), sample("english_female.wav")
POCKET = plain_defaults("speech_to_video", "pocket")


def asked_of(form: Form) -> dict[str, Any]:
    request = form.request()
    assert request is not None
    return request.to_json()


def test_where_a_page_waits_what_one_sets_seldom_comes_later_and_loses_nothing() -> None:
    async def cell() -> None:
        form = Form(SpeechToVideo, profile="pocket", image=FACE, audio=VOICE, flow_shift=4.5, loras=[])
        assert set(form.made) < set(form.views)
        assert "image" in form.made and form.views["flow_shift"].group == "advanced"
        asked = asked_of(form)
        assert (asked["flow_shift"], asked["num_inference_steps"]) == (4.5, POCKET["num_inference_steps"])
        assert "flow_shift" not in form.made  # that was no reason to make it
        form.set(flow_shift=5.0, frames_per_segment=40)
        form.expand()
        assert set(form.made) == set(form.views)
        assert named(form, "Flow shift").value == 5.0
        assert form.values()["step_cache"] == asked["step_cache"]
        assert asked_of(form)["frames_per_segment"] == 40
        form.close()

    asyncio.run(cell())


def test_a_request_is_filled_in_before_all_controls_are_made() -> None:
    async def cell() -> None:
        form = Form(SpeechToVideo, profile="pocket", image=FACE, audio=VOICE, flow_shift=4.5)
        request = SpeechToVideo(profile="pocket", image=FACE, audio=VOICE, flow_shift=4.5, seed=3)
        form.fill(request)
        assert form.request() == request and {"flow_shift", "seed"} <= form.touched
        later = Form(SpeechToVideo, profile="pocket")
        later.show(RequestError([("flow_shift", "it is wrong")]))
        assert later.expanded and later.problems() == {"flow_shift": "it is wrong"}
        for each in (form, later):
            each.close()

    asyncio.run(cell())
