"""Requests: what is accepted, in which words the rest is refused, and that every field can be read by people."""

import inspect
import json
import math
import pydoc
import re
from pathlib import Path
from typing import Any, ClassVar, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from tests import toys
from wanavatar_lab import requests
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import (
    LANGUAGES,
    STAGE_REQUESTS,
    FieldView,
    ImageLoraChoice,
    ImageToVideo,
    LoraChoice,
    Request,
    RequestError,
    SpeechToVideo,
    TextToImage,
    Upscale,
    fields_of,
    from_json,
    parse,
    plain_defaults,
)
from wanavatar_lab.requests.complete import offer_choices
from wanavatar_lab.requests.sizes import LARGEST_SIDE, NAMED_AREAS, SMALLEST_SIDE, cut_off, fit_into

REQUIRED: dict[str, dict[str, Any]] = {
    "text_to_image": {"prompt": "a woman with red hair"},
    "upscale": {"image": "a.png"},
    "image_to_video": {"image": "a.png"},
    "text_to_speech": {"text": "Hello"},
    "speech_to_video": {"image": "a.png", "audio": "v.wav"},
    **{tool: {"video": "c.mp4"} for tool in ("extract_audio", "extract_frame", "interpolate_frames")},
    **{tool: {"media": "v.wav"} for tool in ("trim", "resample", "normalize_loudness", "separate_vocals")},
    "concatenate": {"first": "v.wav", "second": "w.wav"},
}
HANGUL, HAN = re.compile("[가-힣]"), re.compile("[一-鿿]")
FIELDS = [(stage, name) for stage, request in STAGE_REQUESTS.items() for name in fields_of(request)]
SPOKEN = [*STAGE_REQUESTS.values(), LoraChoice, ImageLoraChoice]


def problems(stage: str, /, **values: Any) -> dict[str, str]:
    """What is wrong with these fields beside the required ones."""
    with pytest.raises(RequestError) as caught:
        parse(stage, {**REQUIRED[stage], **values})
    return dict(caught.value.problems)


# --- defaults


def test_published_defaults() -> None:
    t2i = TextToImage(prompt="x")
    assert (t2i.size(), t2i.num_inference_steps, t2i.guidance_scale, t2i.seed) == ((720, 1280), 4, 1.0, -1)
    assert t2i.upscale is True and t2i.loras == ()
    assert Upscale(image="a.png").tile == 512
    i2v = ImageToVideo(image="a.png")
    assert (i2v.resolution, i2v.frame_num, i2v.num_inference_steps) == ("auto", 81, 40)
    assert (i2v.guidance_scale, i2v.low_noise_guidance_scale(), i2v.flow_shift, i2v.offload) == (5.0, 5.0, 5.0, "auto")
    s2v = SpeechToVideo(image="a.png", audio="v.wav")
    assert (s2v.resolution, s2v.num_inference_steps, s2v.guidance_scale) == ("auto", 25, 5.5)
    assert (s2v.frames_per_segment, s2v.num_segments, s2v.step_cache) == (80, 0, "off")
    assert (s2v.audio_start, s2v.audio_duration, s2v.pose_video, s2v.start_from_image) == (0.0, None, None, False)
    assert s2v.negative_prompt.startswith("画面模糊") and i2v.negative_prompt.startswith("色调艳丽")


def test_the_published_flow_shift_unless_one_is_given() -> None:
    s2v = SpeechToVideo(image="a.png", audio="v.wav")
    assert s2v.the_flow_shift() == s2v.changed(profile="pocket").the_flow_shift() == 3.0
    assert s2v.changed(flow_shift=4.0).the_flow_shift() == 4.0


def test_second_guidance_of_its_own() -> None:
    assert ImageToVideo(image="a.png", guidance_scale=4.0).low_noise_guidance_scale() == 4.0
    assert ImageToVideo(image="a.png", guidance_scale=4.0, guidance_scale_2=3.0).low_noise_guidance_scale() == 3.0


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("stage", STAGE_REQUESTS)
def test_plain_defaults_are_plain_and_are_the_defaults(stage: str, profile: str) -> None:
    plain = plain_defaults(stage, profile)
    assert {type(value) for value in plain.values()} <= {str, int, float, bool, list}
    assert json.loads(json.dumps(plain)) == plain
    request = parse(stage, {**plain, **REQUIRED[stage]})
    named = {"profile": profile} if "profile" in plain else {}  # a tool has none
    assert request == parse(stage, {**REQUIRED[stage], **named})


# --- what is accepted


@pytest.mark.parametrize("written", ["480x832", "480X832", "480*832", "480×832", " 480 x 832 "])
def test_a_resolution_is_written_one_way(written: str) -> None:
    request = ImageToVideo(image="a.png", resolution=written)
    assert request.resolution == "480x832"
    assert request.size(picture=(1000, 1000)) == (480, 832)


@pytest.mark.parametrize(
    ("resolution", "picture", "size"),
    [
        ("auto", (1440, 2560), (704, 1280)),
        ("720p", (1440, 2560), (704, 1280)),
        ("720p", (4000, 3000), (1088, 832)),
        ("480p", (1440, 2560), (448, 832)),
        ("480p", (2560, 1440), (832, 448)),
        ("480p", (2560, 1080), (960, 384)),
        ("480p", (1024, 1024), (576, 576)),
        ("480p", (1, 1), (576, 576)),  # which the reference would not enlarge
    ],
)
def test_speech_to_video_has_the_sizes_of_the_reference(
    resolution: str, picture: tuple[int, int], size: tuple[int, int]
) -> None:
    """What `get_size_less_than_area` of Wan2.2 (42bf4cf) returns for the area."""
    assert SpeechToVideo(image="a.png", audio="v.wav", resolution=resolution).size(picture) == size


@pytest.mark.parametrize(
    ("profile", "resolution", "picture", "size"),
    [
        ("full", "auto", (1440, 2560), (720, 1280)),
        ("full", "480p", (2560, 1440), (832, 480)),
        ("full", "480p", (1, 1), (624, 624)),
        ("pocket", "auto", (1440, 2560), (96, 160)),
        ("pocket", "auto", (3000, 4000), (112, 144)),
    ],
)
def test_auto_keeps_the_shape_of_the_picture(
    profile: str, resolution: str, picture: tuple[int, int], size: tuple[int, int]
) -> None:
    assert ImageToVideo(profile=profile, image="a.png", resolution=resolution).size(picture) == size


AREAS = [(128 * 128, 16), *((area, multiple) for area in NAMED_AREAS.values() for multiple in (16, 64))]


@given(st.sampled_from(AREAS), st.tuples(st.integers(1, 20_000), st.integers(1, 20_000)))
def test_a_fitted_size_is_allowed_and_near_the_shape(area: tuple[int, int], picture: tuple[int, int]) -> None:
    most, multiple = area
    width, height = fit_into(most, picture, multiple)
    assert width % multiple == height % multiple == 0
    assert SMALLEST_SIDE <= min(width, height) <= max(width, height) <= LARGEST_SIDE
    assert width * height <= most
    shape = picture[0] / picture[1]
    if 1 / 3 <= shape <= 3:
        assert width * height >= most * 0.75
        assert abs(math.log(width / height / shape)) < 3 * multiple / math.sqrt(most)
        assert cut_off(picture, (width, height)) == pytest.approx(1 - math.exp(-abs(math.log(width / height / shape))))


def test_text_is_read_as_a_command_line_has_it() -> None:
    request = parse(
        "speech_to_video",
        {
            **REQUIRED["speech_to_video"],
            "seed": "7",
            "guidance_scale": "4.5",
            "start_from_image": "true",
            "flow_shift": "auto",
            "audio_duration": "",
            "pose_video": "",
            "loras": "anna, smile:0.8, nod:1:0.25, age:-2.5, old:auto:3",
        },
    )
    assert isinstance(request, SpeechToVideo)
    assert (request.seed, request.guidance_scale, request.start_from_image) == (7, 4.5, True)
    assert (request.flow_shift, request.audio_duration, request.pose_video) == (None, None, None)
    assert request.loras == (
        LoraChoice(name="anna"),
        LoraChoice(name="smile", high_weight=0.8, low_weight=0.8),
        LoraChoice(name="nod", high_weight=1.0, low_weight=0.25),
        LoraChoice(name="age", high_weight=-2.5, low_weight=-2.5),
        LoraChoice(name="old", low_weight=3.0),
    )
    assert LoraChoice(name="anna").model_dump() == {"name": "anna", "high_weight": None, "low_weight": None}


def test_paths_and_numpy_numbers_are_read() -> None:
    numpy = pytest.importorskip("numpy")
    request = Upscale(image=Path("a.png"), tile=numpy.int64(64))
    assert request.to_json() == {
        "stage": "upscale",
        "profile": "full",
        "image": "a.png",
        "tile": 64,
        "weights": None,
    }


def test_a_request_cannot_be_changed_in_place_and_can_be_a_key() -> None:
    request = Upscale(image="a.png")
    with pytest.raises(ValueError, match="frozen"):
        request.tile = 64  # type: ignore[misc]
    assert {request: 1}[Upscale(image="a.png")] == 1
    assert request.changed(tile=64).tile == 64
    with pytest.raises(RequestError, match=r"tile: .*\(got -1\)"):
        request.changed(tile=-1)


# --- what is refused, and in which words


@pytest.mark.parametrize("stage", ["text_to_image", "image_to_video", "speech_to_video"])
def test_a_lora_in_a_prompt_is_sent_to_its_field(stage: str, tmp_path: Path) -> None:
    files = {name: str(toys.voice(tmp_path / "a.wav", 0.1)) for name in REQUIRED[stage] if name != "prompt"}
    plain = parse(stage, {**files, "prompt": "she <nods>, a < b, <lora> and lora:ann:0.8"})
    plain.check_inputs()
    for tag in ("<lora:ann:0.8>", "<lora:ann:0.8:0.6>", "< LoRA:Ann >", "<lyco:ann:1>"):
        tagged = plain.changed(prompt=f"she nods {tag}, slowly")
        assert from_json(tagged.to_json()) == tagged, "a run of the past can be read"
        with pytest.raises(RequestError) as caught:
            tagged.check_inputs()
        assert dict(caught.value.problems) == {
            "prompt": f"has '{tag}', which would be read as words: remove it, and put the LoRA into loras"
        }


@pytest.mark.parametrize(
    ("stage", "field", "value", "allowed"),
    [
        ("text_to_image", "prompt", "", "text of 1 to 10000 characters"),
        ("text_to_image", "prompt", "   ", "text of 1 to 10000 characters"),
        ("text_to_image", "prompt", 5, "text of 1 to 10000 characters"),
        ("text_to_image", "aspect", "wide", "one of 'portrait', 'landscape', 'square'"),
        ("text_to_image", "num_inference_steps", 13, "an integer from 1 to 12"),
        ("text_to_image", "num_inference_steps", 4.5, "an integer from 1 to 12"),
        ("text_to_image", "num_inference_steps", True, "an integer from 1 to 12"),
        ("text_to_image", "num_inference_steps", None, "an integer from 1 to 12"),
        ("text_to_image", "num_inference_steps", "four", "an integer from 1 to 12"),
        ("text_to_image", "upscale", "maybe", "true or false"),
        ("text_to_image", "seed", -2, "from 0 to 4294967295, or -1 to draw one"),
        ("text_to_image", "seed", 2**32, "from 0 to 4294967295, or -1 to draw one"),
        ("text_to_image", "loras", 5, "up to 32 LoRAs"),
        ("text_to_image", "loras", [str(n) for n in range(33)], "up to 32 LoRAs"),
        ("upscale", "tile", 31, "0, or an integer from 32 to 2048"),
        ("upscale", "tile", 4096, "0, or an integer from 32 to 2048"),
        ("upscale", "image", "a\0.png", "the path of a picture file"),
        ("upscale", "image", "", "the path of a picture file"),
        ("image_to_video", "frame_num", 80, "from 5 to 961, in steps of 4 (5, 9, 13, ...)"),
        ("image_to_video", "frame_num", 1, "from 5 to 961"),
        ("image_to_video", "guidance_scale_2", 0.5, "a number from 1 to 20, or 'auto'"),
        ("image_to_video", "flow_shift", 0, "a number from 0.1 to 20"),
        ("image_to_video", "offload", "cpu", "one of 'auto', 'none', 'model', 'group', 'fp8'"),
        ("speech_to_video", "frames_per_segment", 78, "from 4 to 160, in steps of 4 (4, 8, 12, ...)"),
        ("speech_to_video", "num_segments", -1, "from 0 to 1000"),
        ("speech_to_video", "guidance_scale", math.nan, "a number from 1 to 20"),
        ("speech_to_video", "guidance_scale", "inf", "a number from 1 to 20"),
        ("speech_to_video", "guidance_scale", True, "a number from 1 to 20"),
        ("speech_to_video", "audio_start", -0.5, "a number from 0 to 86400"),
        ("speech_to_video", "audio_duration", 0, "a number above 0 and up to 86400, or 'auto'"),
        ("speech_to_video", "step_cache", "teacache", "one of 'off', 'first_block'"),
        ("speech_to_video", "step_cache_threshold", 0, "a number above 0 and up to 1"),
        ("speech_to_video", "pose_video", 3, "the path of a video file, or empty"),
        ("speech_to_video", "image_box", "0,0,512", "left, top, width and height of a part of the picture in pixels"),
        ("speech_to_video", "image_box", "0,0,0,512", "such as 0,0,512,512, or empty"),
        ("speech_to_video", "image_box", "-1,0,9,9", "such as 0,0,512,512, or empty"),
        ("speech_to_video", "resolution", "huge", "width x height such as '720x1280', each from 64 to 2048"),
        ("speech_to_video", "resolution", "700x1280", "the nearest is '704x1280'"),
        ("speech_to_video", "resolution", "32x99999", "the nearest is '64x2048'"),
        ("speech_to_video", "resolution", "720x-1280", "in multiples of 16"),
    ],
)
def test_a_refusal_names_field_value_and_what_is_allowed(stage: str, field: str, value: Any, allowed: str) -> None:
    found = problems(stage, **{field: value})
    assert list(found) == [field]
    said = found[field]
    assert allowed in said
    if isinstance(value, str) and not value.strip():
        assert said.startswith("is empty; give ")
    else:
        assert said.startswith("must be ")
        assert f"(got {repr(value)[:20]}" in said


def test_all_problems_are_told_at_once_and_in_order() -> None:
    with pytest.raises(RequestError) as caught:
        parse("speech_to_video", {"audio": "", "imge": 1, "num_inference_steps": 0, "loras": ["a:9", {"nam": "b"}, 4]})
    assert dict(caught.value.problems) == {
        "audio": "is empty; give the path of a sound file",
        "num_inference_steps": "must be an integer from 1 to 100 (got 0)",
        "loras[0].high_weight": "must be a number from -5 to 5, or 'auto' (got '9')",
        "loras[0].low_weight": "must be a number from -5 to 5, or 'auto' (got '9')",
        "loras[1].name": "is required: the name of a LoRA as the list of LoRAs shows it",
        "loras[1].nam": "there is no such field; did you mean 'name'?",
        "loras[2]": "must be up to 32 LoRAs, each a name with high_weight and low_weight from -5 to 5 (got 4)",
        "imge": "there is no such field; did you mean 'image'?",
    }
    for field, message in caught.value.problems:
        assert f"{field}: {message}" in str(caught.value)


def test_an_unknown_field_that_is_like_no_other_gets_the_whole_list() -> None:
    assert problems("upscale", zzz=1)["zzz"] == "there is no such field; there are profile, image, tile, weights"


@pytest.mark.parametrize("name", ["self", "cls", "stage", "values", "data", "__init__", "model_config", ""])
def test_a_name_that_python_uses_is_an_unknown_field(name: str) -> None:
    assert name in problems("upscale", **{name: 1})


def test_width_and_height_go_together() -> None:
    assert "required with width 128" in problems("text_to_image", width=128)["height"]
    assert "required with height 128" in problems("text_to_image", height=128)["width"]
    assert TextToImage(prompt="x", width=128, height=64, aspect="square").size() == (128, 64)


def test_a_lora_is_named_once_and_written_plainly() -> None:
    assert problems("text_to_image", loras=["a", "a:0.5"])["loras"].startswith("must name each LoRA once: 'a'")
    assert "NAME:WEIGHT" in problems("text_to_image", loras=["a:1:2"])["loras[0]"]
    assert "loras[0].weight" in problems("text_to_image", loras=[{"name": "a", "weight": -5.1}])


@pytest.mark.parametrize("stage", ["speech-to-video", "dance", None, 5, ["upscale"]])
def test_an_unknown_stage_is_refused(stage: Any) -> None:
    with pytest.raises(RequestError, match=r"is not a stage; .*speech_to_video"):
        parse(stage, {})


@pytest.mark.parametrize("data", [None, [], "image=a.png", {1: 2}])
def test_what_is_no_mapping_of_names_is_refused(data: Any) -> None:
    with pytest.raises(RequestError, match="is not a request"):
        parse("upscale", data)


def test_a_long_value_is_shown_short() -> None:
    assert len(problems("upscale", tile="9" * 100_000)["tile"]) < 200
    assert len(problems("upscale", **{"x" * 100_000: 1})["x" * 79 + "…"]) < 200


@pytest.mark.parametrize(
    "build",
    [
        Upscale,
        lambda **values: parse("upscale", values),
        lambda **values: from_json({"stage": "upscale", **values}),
        lambda **values: Upscale.model_validate(values),
        lambda **values: Upscale.model_validate_json(json.dumps(values)),
        lambda **values: Upscale(image="b.png").changed(**values),
    ],
)
def test_the_words_are_the_same_however_it_is_made(build: Any) -> None:
    with pytest.raises(RequestError) as caught:
        build(image="a.png", tile=5)
    assert str(caught.value) == "tile: must be 0, or an integer from 32 to 2048 (got 5)"


# --- any input at all

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["\ud800", "auto", "1" * 5000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def anything_like_a_request(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    stage = draw(st.sampled_from(sorted(STAGE_REQUESTS)))
    names = st.sampled_from(sorted(fields_of(STAGE_REQUESTS[stage]))) | st.text(max_size=8)
    values = json_values | st.sampled_from([1, 2.5, "pocket", "128x128", ["a:1"], [{"name": "a"}], "first_block"])
    given_values = draw(st.dictionaries(names, values, max_size=5))
    return stage, {**(REQUIRED[stage] if draw(st.booleans()) else {}), **given_values}


@given(anything_like_a_request())
def test_anything_is_either_a_request_or_refused(drawn: tuple[str, dict[str, Any]]) -> None:
    stage, data = drawn
    try:
        request = parse(stage, data)
    except RequestError as error:
        assert error.problems and str(error)
        json.dumps(error.problems).encode()
        return
    written = json.loads(json.dumps(request.to_json(), allow_nan=False))
    assert from_json(written) == request
    assert written["stage"] == stage


@given(st.one_of(json_values, st.dictionaries(st.sampled_from(["stage", "image", "tile"]), json_values)))
def test_any_json_is_read_or_refused(data: Any) -> None:
    try:
        assert isinstance(from_json(data), Request)
    except RequestError as error:
        assert error.problems


def allowed_values(view: FieldView) -> st.SearchStrategy[Any]:
    """What a field allows."""
    low, high, step = view.minimum or 0, view.maximum or 0, view.step or 1
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "bool": st.booleans(),
        "str": st.sampled_from(sorted(view.options)) if view.options else st.text("ab가한字 ").map("x".__add__),
        "int": st.sampled_from(range(int(low), int(high) + 1, step)),
        "float": st.floats(low, high, exclude_min=view.above is not None),
        "list": st.lists(st.sampled_from("abcd"), unique=True).map(lambda names: [f"{name}:0.5" for name in names]),
    }
    return kinds[view.kind] | st.none() if view.optional else kinds[view.kind]


sides = st.integers(SMALLEST_SIDE // 16, LARGEST_SIDE // 16).map(lambda n: 16 * n)
resolutions = st.sampled_from(["auto", "480p", "720p"]) | st.builds("{}x{}".format, sides, sides)
boxes = st.none() | st.builds("{},{},{},{}".format, *(st.integers(0, 9_999),) * 2, *(st.integers(1, 9_999),) * 2)
allowed_requests = st.fixed_dictionaries(
    {name: allowed_values(view) for name, view in fields_of(SpeechToVideo).items()}
    | {"resolution": resolutions, "image_box": boxes}
    # the ways to save steps exclude each other, and tests/stages/test_speed.py tries them
    | {"use_teacache": st.just(False), "step_cache": st.just("off")}
    | {"pose_start": st.floats(0, 0.5, exclude_max=True), "pose_end": st.floats(0.5, 1)}
).map(
    lambda values: SpeechToVideo(
        **values
        # a video is not started from a picture, and is either dubbed or inpainted; without one there is a picture
        | {"image": values["image"] or (None if values["video"] else "a.png")}
        | {"start_from_image": values["start_from_image"] and values["video"] is None}
        | {"inpaint_video": values["inpaint_video"] if values["video"] is None else None}
        | {"inpaint_mask": "mask.png" if values["inpaint_video"] else None}
        # weights that change between layers are not quantized
        | {"quantization": "none" if values["offload"] in ("group", "fp8") else values["quantization"]}
    )
)


@given(allowed_requests)
def test_whatever_is_allowed_survives_json(request_made: Request) -> None:
    assert from_json(json.loads(json.dumps(request_made.to_json()))) == request_made
    assert request_made.changed() == request_made


def test_from_json_of_a_class_takes_only_its_own_stage() -> None:
    assert Upscale.from_json({"stage": "upscale", "image": "a.png"}) == Upscale(image="a.png")
    with pytest.raises(RequestError, match=r"stage: must be 'text_to_image' \(got 'upscale'\)"):
        TextToImage.from_json({"stage": "upscale", "image": "a.png"})


# --- input files


def test_input_files_are_looked_for_before_anything_loads(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "a.png").write_bytes(b"x")
    request = SpeechToVideo(image=str(tmp_path / "empty.png"), audio=str(tmp_path), pose_video=str(tmp_path / "no.mp4"))
    with pytest.raises(RequestError) as caught:
        request.check_inputs()
    found = dict(caught.value.problems)
    assert "empty.png' is empty; give the path of a picture file" in found["image"]
    assert "is not a file; give the path of a sound file" in found["audio"]
    assert "no.mp4' does not exist; give the path of a video file" in found["pose_video"]
    with pytest.raises(RequestError, match=r"image: 'aaa.* cannot be read \(File name too long\); give the path"):
        Upscale(image="a" * 5000).check_inputs()
    Upscale(image=str(tmp_path / "a.png")).check_inputs()


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    request = SpeechToVideo(image="a.png", audio="/v.wav", profile="pocket").with_absolute_paths()
    assert request.input_files() == {"image": tmp_path / "a.png", "audio": Path("/v.wav")}
    assert request.resolution == "128x128"


# --- what people read


@pytest.mark.parametrize("model", SPOKEN, ids=lambda model: model.__name__)
def test_every_field_is_labelled_in_every_language(model: Any) -> None:
    for name, view in fields_of(model).items():
        for words in (view.labels, view.help, view.unit_labels, *view.options.values()):
            assert set(words) == set(LANGUAGES), name
        for text in (view.labels, view.help):
            assert HANGUL.search(text["ko"]) and not HAN.search(text["ko"]), (name, text["ko"])
            assert HAN.search(text["zh"]) and not HANGUL.search(text["zh"]), (name, text["zh"])
            assert text["en"].isascii() and text["en"], (name, text["en"])
        assert all(text.strip() == text and text for text in (*view.labels.values(), *view.help.values()))
        assert view.help["en"].endswith(".") and view.help["ko"].endswith(".") and view.help["zh"].endswith("。"), name
        assert len(set(view.labels.values())) == len(LANGUAGES), name
        assert all(all(words.values()) for words in view.options.values()), name
        assert bool(view.unit) == all(view.unit_labels.values()), name


@pytest.mark.parametrize("request_class", STAGE_REQUESTS.values(), ids=STAGE_REQUESTS)
def test_every_stage_is_labelled_in_every_language(request_class: type[Request]) -> None:
    for words in (request_class.labels, request_class.help):
        assert set(words) == set(LANGUAGES)
        assert words["en"].isascii() and HANGUL.search(words["ko"]) and HAN.search(words["zh"])
    labels = [view.labels[language] for language in LANGUAGES for view in fields_of(request_class).values()]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize(("stage", "name"), FIELDS)
def test_forms_can_be_built_from_the_schema(stage: str, name: str) -> None:
    view = fields_of(STAGE_REQUESTS[stage])[name]
    schema = STAGE_REQUESTS[stage].model_json_schema()["properties"][name]
    assert schema["labels"] == view.labels and schema["help"] == view.help
    assert schema["group"] == view.group and view.group in ("basic", "advanced")
    assert schema["widget"] == view.widget and schema["title"] == view.labels["en"]
    assert schema["description"] == view.help["en"]
    if view.kind in ("int", "float"):
        assert view.maximum is not None and (view.minimum is None) != (view.above is None)


def test_options_are_what_the_type_allows() -> None:
    for stage, name in FIELDS:
        view = fields_of(STAGE_REQUESTS[stage])[name]
        for option in view.options:
            assert getattr(parse(stage, {**REQUIRED[stage], name: option}), name) == option
        assert view.required or view.default is None or not view.options or view.default in view.options


def test_a_new_field_needs_no_other_line() -> None:
    class Longer(Upscale):
        stage: ClassVar[str] = "longer"

        sharpness: float = 0.5

    view = fields_of(Longer)["sharpness"]
    assert (view.labels["ko"], view.widget, view.default, view.allowed) == ("Sharpness", "float", 0.5, "a number")
    with pytest.raises(RequestError, match=r"sharpness: must be a number.* \(got 'much'\)"):
        Longer(image="a.png", sharpness="much")


# --- how a request shows itself


def test_help_is_the_fields_and_the_stages_own_methods() -> None:
    for stage, request in STAGE_REQUESTS.items():
        text = pydoc.plain(pydoc.render_doc(request))
        assert len(text.splitlines()) < 200, stage
        assert "model_validate" not in text and "with_absolute_paths" in text
        for name, view in fields_of(request).items():
            (said,) = [line for line in text.splitlines() if line.startswith(f" |  {name}: ")]
            assert ("required" in said) is view.required
    lines = [line.removeprefix(" |  ") for line in pydoc.plain(pydoc.render_doc(SpeechToVideo)).splitlines()]
    place = lines.index("num_inference_steps: default 25, in pocket 8")
    assert lines[place + 1].startswith("    An integer from 1 to 100, in steps. Denoising steps.")
    assert lines[lines.index("offload: default 'auto'") + 1].startswith("    One of 'auto', 'none', 'model', 'group',")
    assert SpeechToVideo.model_json_schema()["description"].endswith("of any length.")


def test_tab_shows_fields_and_methods_of_the_package_only() -> None:
    request = TextToImage(prompt="x")
    shown = [name for name in dir(request) if not name.startswith("_")]
    assert {"prompt", "seed", "changed", "size", "to_json"} <= set(shown)
    assert not {"model_dump", "copy", "json", "labels"} & set(shown)
    signature = inspect.signature(TextToImage)
    assert get_args(signature.parameters["aspect"].annotation) == ("portrait", "landscape", "square")
    assert get_args(signature.parameters["profile"].annotation) == tuple(PROFILES)
    assert signature.parameters["width"].annotation == int | None
    assert list(signature.parameters) == list(fields_of(TextToImage))


def test_a_request_marks_what_differs_from_its_profile() -> None:
    request = SpeechToVideo(
        profile="pocket", image="<a>.png", audio="v.wav", num_inference_steps=8, seed=3, loras="ann:0.5", flow_shift=5
    )
    assert repr(request).startswith("SpeechToVideo(profile='pocket', image='<a>.png', audio='v.wav', flow_shift=5.0, ")
    assert eval(repr(request), {"SpeechToVideo": SpeechToVideo, "LoraChoice": LoraChoice}) == request
    bundle = request._repr_mimebundle_()
    marked = {line.split()[1]: line for line in bundle["text/plain"].splitlines() if line.startswith("*")}
    assert list(marked) == ["profile", "image", "audio", "flow_shift", "seed", "loras"]
    assert marked["seed"].split("  ", 1)[1].strip() == "3   (default -1)"
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", bundle["text/html"])[1:]
    bold = [re.findall(r"<b>(.*?)</b>", row) for row in rows]
    assert [cells for cells in bold if cells] == [
        ["profile", "pocket"],
        ["image", "&lt;a&gt;.png"],
        ["audio", "v.wav"],
        ["flow_shift", "5"],
        ["seed", "3"],
        ["loras", "ann:0.5:0.5"],
    ]
    assert len(rows) == len(fields_of(SpeechToVideo)) and "8 steps" in bundle["text/html"]


def test_a_custom_stage_without_specs_shows_itself() -> None:
    class Plain(Request):
        stage: ClassVar[str] = "plain"
        text: str = "a"
        many: list[int] = []

    assert repr(Plain(text="b")) == "Plain(profile='full', text='b')"
    assert "* text     b   (default a)" in Plain(text="b")._repr_mimebundle_()["text/plain"]
    assert "text: default 'a'" in (Plain.__doc__ or "")


@pytest.mark.parametrize(
    ("code", "offered"),
    [
        ("SpeechToVideo(offload=", ["'auto'", "'none'", "'model'", "'group'", "'fp8'"]),
        ("x = SpeechToVideo(\n    image='a (1).png', audio=\"v\",\n    offload='g", ["group"]),
        ("requests.SpeechToVideo(size(3, 4), sample_solver='dpm+", ["dpm++"]),
        ("SpeechToVideo(resolution='4", ["480p"]),
        ("SpeechToVideo(lead_in=", ["True", "False"]),
        ("made.changed(aspect='", ["portrait", "landscape", "square"]),
        ("SpeechToVideo(nothing='", []),
        ("SpeechToVideo(seed=", []),
        ("dict(offload='", []),
        ("made.seed(aspect='", []),
        ("SpeechToVideo(loras=[dict(offload='", []),
        ("offload='", []),
    ],
)
def test_tab_offers_the_choices_of_a_field(code: str, offered: list[str]) -> None:
    names = {"SpeechToVideo": SpeechToVideo, "requests": requests, "made": TextToImage(prompt="x"), "dict": dict}
    shell = InteractiveShell()
    shell.user_ns |= names
    offer_choices(shell)
    offer_choices(shell)  # as after a reload, without offering everything twice
    with provisionalcompleter():
        found = list(shell.Completer.completions(code, len(code)))
    ours = [one.text for one in found if one._origin.endswith("requests_choices")]
    assert sorted(ours) == sorted(offered)
    if offered:
        assert len(found) == len(offered), "no files and no names beside the choices"
