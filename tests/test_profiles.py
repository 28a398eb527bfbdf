"""The table of profiles: what a profile fills in, what it never overrides, and that nothing else asks for its name."""

import ast
from pathlib import Path

import pytest

from wanavatar_lab.errors import LabError
from wanavatar_lab.profiles import PROFILES, SIZE_MULTIPLE, Profile
from wanavatar_lab.requests import STAGE_REQUESTS, RequestError, SpeechToVideo, TextToImage, Tool, from_json, parse

PACKAGE = Path(__file__).resolve().parent.parent / "wanavatar_lab"
STAGES = [stage for stage, request in STAGE_REQUESTS.items() if not issubclass(request, Tool)]
REQUIRED = {
    "text_to_image": {"prompt": "a woman with red hair"},
    "upscale": {"image": "a.png"},
    "image_to_video": {"image": "a.png"},
    "text_to_speech": {"text": "Hello"},
    "speech_to_video": {"image": "a.png", "audio": "v.wav"},
}


def test_pocket_fills_in_what_was_not_named() -> None:
    pocket = SpeechToVideo(profile="pocket", image="a.png", audio="v.wav")
    full = SpeechToVideo(image="a.png", audio="v.wav")
    assert (pocket.resolution, pocket.frames_per_segment) == ("128x128", 80)
    assert pocket.num_inference_steps < full.num_inference_steps == 25
    assert full.resolution == "auto"


def test_a_named_field_wins_even_with_the_default_of_full() -> None:
    request = parse("speech_to_video", {**REQUIRED["speech_to_video"], "profile": "pocket", "resolution": "720*1280"})
    assert request.to_json()["resolution"] == "720x1280"


def test_defaults_follow_a_changed_profile_and_named_fields_stay() -> None:
    request = SpeechToVideo(profile="pocket", image="a.png", audio="v.wav", num_inference_steps=7)
    assert request.named() == {"profile": "pocket", "image": "a.png", "audio": "v.wav", "num_inference_steps": 7}
    for same in (request, from_json(request.to_json())):  # also as a run of the past is read
        changed = same.changed(profile="full")
        assert isinstance(changed, SpeechToVideo)
        assert (changed.resolution, changed.num_inference_steps, changed.guidance_scale) == ("auto", 7, 5.5)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("stage", STAGES)
def test_every_override_is_a_field_and_allowed(stage: str, profile: str) -> None:
    request = parse(stage, {**REQUIRED[stage], "profile": profile})
    overrides = PROFILES[profile].default_overrides(stage)
    assert overrides.items() <= request.to_json().items()
    assert from_json(request.to_json()) == request


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_every_stage_has_weights_and_every_aspect_a_size(profile: Profile) -> None:
    assert set(profile.locations) == set(STAGES)
    assert profile.label
    for aspect in ("portrait", "landscape", "square"):
        width, height = TextToImage(prompt="x", aspect=aspect, profile=profile.name).size()
        assert width % SIZE_MULTIPLE == height % SIZE_MULTIPLE == 0
        assert (width < height, width > height) == (aspect == "portrait", aspect == "landscape")


def test_where_weights_lie() -> None:
    assert PROFILES["full"].weights("speech_to_video", "w") == Path("w/Wan2.2-S2V-14B")
    assert PROFILES["full"].weights("image_to_video", "w") == Path("w/Wan2.2-I2V-A14B")
    assert PROFILES["full"].weights("text_to_image", Path("w")) == Path("w/FLUX.2-klein-9B")
    assert PROFILES["full"].weights("upscale", "w") == Path("w/RealESRGAN_x2plus.pth")
    assert PROFILES["pocket"].weights("upscale", "w") == Path("w/pocket/upscale")
    with pytest.raises(LabError, match="no stage 'dance'"):
        PROFILES["pocket"].weights("dance", "w")


def test_parts_that_stages_share_lie_once() -> None:
    shared = PROFILES["pocket"].shared_parts("image_to_video", "w")
    assert shared["vae"] == PROFILES["pocket"].shared_parts("speech_to_video", Path("w"))["vae"]
    # what one stage owns and another uses lies in the owner's folder
    assert shared["text_encoder"].parent == PROFILES["pocket"].weights("speech_to_video", "w")
    assert PROFILES["pocket"].shared_parts("upscale", "w") == {}
    assert all(PROFILES["full"].shared_parts(stage, "w") == {} for stage in STAGES), "published folders are whole"


def test_number_format_by_device() -> None:
    assert PROFILES["full"].dtype("cuda:1") == PROFILES["full"].dtype("cuda") == "bfloat16"
    with pytest.raises(LabError, match="'abacus'"):
        PROFILES["full"].dtype("abacus")


def test_an_unknown_profile_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RequestError) as caught:
        SpeechToVideo(profile="pokket", image="a.png", audio="v.wav")
    assert caught.value.problems == [("profile", "must be one of 'full', 'pocket' (got 'pokket')")]


def test_no_other_file_asks_for_a_profile_by_name() -> None:
    asking = []
    for path in PACKAGE.rglob("*.py"):
        if path.name == "profiles.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare):
                compared = [part.value for part in [node.left, *node.comparators] if isinstance(part, ast.Constant)]
                if {"pocket", "full"} & {value for value in compared if isinstance(value, str)}:
                    asking.append(f"{path.name}:{node.lineno}")
    assert asking == []
