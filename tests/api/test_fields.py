"""Fields of the endpoints become those of a request; errors name them as the endpoint does."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from wanavatar_lab import jobs
from wanavatar_lab.api import processes
from wanavatar_lab.api.fields import GENERATE, GENERATE_FLUX, GENERATE_I2V
from wanavatar_lab.api.places import samples_folder
from wanavatar_lab.errors import RequestError
from wanavatar_lab.media import VideoWriter
from wanavatar_lab.profiles import PROFILES

FILES = {"image_path": "samples/avatar_woman.png", "audio_path": "/samples/korean.wav"}
# every field of the predecessor's requests, with its default
SPEECH: dict[str, Any] = {
    **FILES,
    "prompt": "a",
    "negative_prompt": "b",
    "resolution": "720*1280",
    "num_clips": 0,
    "inference_steps": 25,
    "guidance_scale": 5.5,
    "infer_frames": 80,
    "seed": -1,
    "offload_model": False,
    "use_teacache": False,
    "teacache_thresh": 0.15,
    "lora_weights": [{"name": "ann", "high_weight": 0.5, "low_weight": 0.75}],
}


def test_every_field_of_the_predecessor() -> None:
    request, area = GENERATE.read(SPEECH, "full")
    assert area is None and request.to_json() == {
        **request.to_json(),
        "stage": "speech_to_video",
        "image": str(Path(samples_folder() / "avatar_woman.png").resolve()),
        "audio": str(Path(samples_folder() / "korean.wav").resolve()),
        "prompt": "a",
        "negative_prompt": "b",
        "resolution": "auto",
        "num_segments": 0,
        "num_inference_steps": 25,
        "guidance_scale": 5.5,
        "frames_per_segment": 80,
        "offload": "auto",
        "loras": [{"name": "ann", "high_weight": 0.5, "low_weight": 0.75}],
    }
    clip, _ = GENERATE_I2V.read(
        {
            "image_path": FILES["image_path"],
            "frame_num": 81,
            "inference_steps": 40,
            "shift": 4.0,
            "offload_model": True,
        },
        "full",
    )
    named = {name: clip.to_json()[name] for name in ("frame_num", "num_inference_steps", "flow_shift", "offload")}
    assert named == {"frame_num": 81, "num_inference_steps": 40, "flow_shift": 4.0, "offload": "model"}
    picture, _ = GENERATE_FLUX.read(
        {"prompt": "a", "upscale": False, "aspect_ratio": "square", "lora_weights": [{"name": "x", "weight": 1}]},
        "full",
    )
    assert picture.named()["aspect"] == "square" and picture.to_json()["loras"] == [{"name": "x", "weight": 1.0}]


def test_what_is_left_out_has_the_default_of_the_profile() -> None:
    request, _ = GENERATE.read({**FILES, "lora_weights": None, "seed": None}, "pocket")
    assert (
        request.to_json()["num_inference_steps"]
        == PROFILES["pocket"].defaults["speech_to_video"]["num_inference_steps"]
    )
    assert request.named().keys() == {"profile", "image", "audio"}


@pytest.mark.parametrize(
    ("resolution", "area"),
    [("480*832", 399_360), ("832x480", 399_360), ("1024*704", 720_896), ("720*1280", None), ("2560*1440", None)],
)
def test_a_resolution_is_a_number_of_pixels(resolution: str, area: int | None) -> None:
    """At most as many as are usual for the profile, where the predecessor took any."""
    assert GENERATE.read({**FILES, "resolution": resolution}, "full")[1] == area
    assert GENERATE.read({**FILES, "resolution": resolution}, "pocket")[1] is None


@pytest.mark.parametrize("image", [None, "avatar_woman.png"])
def test_a_resolution_has_the_shape_of_the_video_to_dub(
    image: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture beside it only says how the face looks, and there may be none."""
    clip = tmp_path / "talk.mp4"
    with VideoWriter(clip, fps=16) as writer:
        writer.write(np.zeros((80, 160, 3), np.uint8))
    submitted: list[Any] = []

    def submit(request: Any) -> Any:
        submitted.append(request)
        return SimpleNamespace(id="a")

    monkeypatch.setattr(jobs, "submit", submit)
    fields: dict[str, Any] = {"profile": "pocket", "audio": str(samples_folder() / "korean.wav"), "video": str(clip)}
    if image is not None:
        fields["image"] = str(samples_folder() / image)
    assert processes.submit({"stage": "speech_to_video", **fields}, 128 * 64) == "a"
    assert submitted[0].resolution == "128x64"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"inference_steps": 0}, "inference_steps: must be an integer from 1 to 100"),
        ({"inference_steps": "25"}, "inference_steps: must be an integer from 1 to 100 (got '25')"),
        ({"num_inference_steps": 25}, "num_inference_steps: there is no such field; did you mean 'inference_steps'?"),
        ({"resolution": "big"}, "resolution: must be two sides in pixels"),
        ({"resolution": "0*0"}, "resolution: must be two sides in pixels"),
        ({"offload_model": "yes"}, "offload_model: must be true or false"),
        ({"lora_weights": [{"name": "a", "high_weight": 9}]}, "lora_weights[0].high_weight: must be"),
        ({"lora_weights": ["a:1"]}, "lora_weights: must be"),
        ({"infer_frames": 81}, "infer_frames: must be an integer from 4 to 160, in steps of 4"),
        ({"profile": "full"}, "profile: there is no such field"),
        ({"use_teacache": True, "speed": "fast"}, "speed: must be exact with use_teacache"),
    ],
)
def test_errors_name_the_fields_of_the_endpoint(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(RequestError) as error:
        GENERATE.read({**FILES, **given}, "full")
    assert problem in str(error.value)


def test_a_number_may_be_auto_where_its_errors_say_so() -> None:
    with pytest.raises(RequestError, match=r"from 0\.1 to 20, or 'auto'"):
        GENERATE.read({**FILES, "flow_shift": 100}, "full")
    request, _ = GENERATE.read({**FILES, "flow_shift": "auto"}, "full")
    assert request.to_json()["flow_shift"] is None
    with pytest.raises(RequestError, match="seed: must be an integer"):
        GENERATE.read({**FILES, "seed": "auto"}, "full")


def test_the_schema_has_every_field() -> None:
    schema = GENERATE.schema("full")
    assert SPEECH.keys() < schema["properties"].keys() and schema["required"] == ["audio_path"]
    defaults = {name: shown.get("default") for name, shown in schema["properties"].items()}
    assert {
        name: defaults[name] for name in SPEECH if name not in (*FILES, "prompt", "negative_prompt", "lora_weights")
    } == {
        name: value
        for name, value in SPEECH.items()
        if name not in (*FILES, "prompt", "negative_prompt", "lora_weights")
    }
    assert {"profile", "weights"}.isdisjoint(schema["properties"])
