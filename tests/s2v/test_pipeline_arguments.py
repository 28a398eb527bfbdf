"""What the S2V pipeline's arguments may be, and what it says to those that do not fit."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.s2v.test_pipeline import TEXT_DIM, arguments, clip, shared_pipe, waveform
from wanavatar_lab.s2v import WanSpeechToVideoPipeline
from wanavatar_lab.s2v.check_inputs import size_of_clip
from wanavatar_lab.wan.latents import picture_to_pixels

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"height": 72}, "height is 72"),
    ({"width": 0}, "width is 0"),
    ({"width": -64}, "width is -64"),
    ({"height": 48}, "height is 48; .*64 or more"),
    ({"frames_per_segment": 6}, "frames_per_segment is 6"),
    ({"frames_per_segment": 0}, "frames_per_segment is 0"),
    ({"motion_frames": 72}, "motion_frames is 72"),
    ({"num_segments": -1}, "num_segments is -1"),
    ({"num_inference_steps": 0}, "num_inference_steps is 0"),
    ({"num_inference_steps": 2.5}, "num_inference_steps is 2.5; need 1 or more, a whole number"),
    ({"num_segments": 1.0}, "num_segments is 1.0"),
    ({"seed": None}, "seed is None; need a whole number"),
    ({"seed": 2**64}, f"seed is {2**64}"),
    ({"guidance_scale": None}, "guidance_scale is None; need a finite number"),
    ({"guidance_scale": math.nan}, "guidance_scale is nan"),
    ({"flow_shift": -1.0}, "flow_shift is -1.0"),
    ({"flow_shift": math.inf}, "flow_shift is inf"),
    ({"pose_end": 1.5}, "pose_end is 1.5"),
    ({"pose_start": 0.8, "pose_end": 0.1}, "pose_start is 0.8 and pose_end is 0.1"),
    ({"pose_video": torch.zeros(8, 3, 32, 64)}, r"pose_video is \(8, 3, 32, 64\)"),
    ({"pose_video": np.zeros((8, 3, 64, 64), np.float32)}, "pose_video is ndarray of float32; need a float tensor"),
    ({"pose_video": torch.zeros(8, 3, 64, 64, dtype=torch.uint8)}, "pose_video is Tensor of torch.uint8"),
    ({"latents": torch.zeros(1, 16, 2, 8, 8)}, r"latents is \(1, 16, 2, 8, 8\); need \[S, 16, 1, 8, 8\]"),
    ({"audio_features": None}, "Pass audio"),
    ({"audio": waveform()}, "either audio .* or audio_features"),
    ({"audio_features": torch.zeros(20, 16)}, r"audio_features is \(20, 16\)"),
    ({"audio_features": None, "audio": np.zeros((9000, 2))}, r"audio is \(9000, 2\)"),
    ({"audio_features": None, "audio": [0.0] * 9000}, "audio is list; need a mono waveform"),
    ({"audio_start": 0.4}, "audio_start is 0.4 s, but the audio ends at 0.40 s"),
    ({"audio_start": -1.0}, "audio_start is -1.0"),
    ({"audio_start": math.nan}, "audio_start is nan"),
    ({"audio_duration": 0.0}, "audio_duration is 0.0"),
    ({"audio_duration": 0.001}, "audio_duration is 0.001: that leaves 0 ms"),
    (
        {"audio_features": None, "audio": waveform(), "audio_duration": 0.01},
        "audio_duration is 0.01: that leaves 10 ms",
    ),
    ({"prompt_embeds": None}, "Pass prompt or prompt_embeds"),
    ({"prompt_embeds": None, "prompt": ["a person"]}, r"prompt is \['a person'\]; need one text"),
    ({"negative_prompt_embeds": None}, "Pass negative_prompt or negative_prompt_embeds"),
    ({"prompt_embeds": torch.zeros(1, 5, 17)}, r"prompt_embeds is \(1, 5, 17\)"),
    ({"prompt_embeds": torch.zeros(1, 513, TEXT_DIM)}, r"prompt_embeds is \(1, 513, 16\)"),
    ({"negative_prompt_embeds": torch.zeros(2, 5, TEXT_DIM)}, r"negative_prompt_embeds is \(2, 5, 16\)"),
    ({"image": torch.zeros(1, 3, 64, 64)}, r"image is torch.float32 \[1, 3, 64, 64\]"),
    ({"image": np.zeros((64, 64, 3))}, r"image is float64 \[64, 64, 3\]"),
    ({"image": "a.png"}, "image is str"),
    (
        {"image": Image.new("I;16", (64, 64))},
        "image has the mode I;16 .* read it with wanavatar_lab.media.read_picture",
    ),
    ({"callback_on_step_end_tensor_inputs": ("latent",)}, r"callback_on_step_end_tensor_inputs has \['latent'\]"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_does_not_fit_is_refused_before_anything_runs(changes: dict[str, Any], message: str) -> None:
    # nothing is asked of the iterator: the call itself refuses
    with pytest.raises(ValueError, match=message):
        shared_pipe().stream(**arguments(**changes))


def test_an_unknown_output_type_is_refused() -> None:
    with pytest.raises(ValueError, match="output_type is 'jpg'"):
        shared_pipe()(output_type="jpg", **arguments())


@pytest.mark.parametrize(
    ("missing", "changes", "message"),
    [
        ("text_encoder", {"prompt": "a", "prompt_embeds": None}, "no text encoder: pass prompt_embeds"),
        ("audio_encoder", {"audio": waveform(), "audio_features": None}, "no audio encoder: pass audio_features"),
    ],
)
def test_a_part_that_is_missing_is_named(missing: str, changes: dict[str, Any], message: str) -> None:
    lacking = WanSpeechToVideoPipeline(**{**shared_pipe().components, missing: None})
    with pytest.raises(ValueError, match=message):
        lacking.stream(**arguments(**changes))


def test_the_clip_and_its_stream_show_the_same_arguments() -> None:
    shown = inspect.signature(WanSpeechToVideoPipeline.__call__)
    assert inspect.signature(WanSpeechToVideoPipeline.stream) == shown
    kinds = {parameter.kind for parameter in shown.parameters.values()}
    assert kinds == {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
    with pytest.raises(TypeError, match="output_type"):
        shared_pipe().stream(**arguments(), output_type="np")


@pytest.mark.parametrize(
    ("given", "size"),
    [
        ((None, None), (448, 832)),
        ((128, None), (128, 224)),
        ((None, 112), (64, 112)),
        ((64, 96), (64, 96)),
    ],
)
def test_a_size_that_is_not_given_follows_the_picture(
    given: tuple[int | None, int | None], size: tuple[int, int]
) -> None:
    picture = Image.new("RGB", (104, 60))
    assert size_of_clip(picture, *given) == size
    assert size_of_clip(np.zeros((60, 104, 3), np.uint8), *given) == size
    if size[0] == 64:
        height, width = given
        made = shared_pipe()(**arguments(image=picture, height=height, width=width, num_inference_steps=1)).frames
        assert made.shape == (1, 5, *size, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(mode: str) -> None:
    """And not what an editor left behind it, which is often black."""
    picture = Image.new(mode, (64, 64), 0)
    if mode == "P":
        picture.info["transparency"] = 0
    assert picture_to_pixels(picture, 64, 64).unique().tolist() == [1.0]


def test_the_bar_counts_the_steps_of_all_segments(capsys: pytest.CaptureFixture[str]) -> None:
    pipe = WanSpeechToVideoPipeline(**shared_pipe().components)
    clip(pipe, num_inference_steps=3)
    assert "6/6" in capsys.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    clip(pipe, num_inference_steps=3)
    assert capsys.readouterr().err == ""


def test_noise_comes_from_a_generator_or_as_latents() -> None:
    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(4)

    made = clip(shared_pipe(), generator=seeded(), seed=9)
    assert torch.equal(made, clip(shared_pipe(), generator=seeded()))
    assert not torch.equal(made, clip(shared_pipe()))
    generator = seeded()
    noise = torch.cat([torch.randn(1, 16, 1, 8, 8, generator=generator) for _ in range(2)])
    assert torch.equal(made, clip(shared_pipe(), latents=noise))
    # without noise for the second segment, it is drawn
    assert torch.equal(made[:, :1], clip(shared_pipe(), latents=noise[:1])[:, :1])


PICTURES: list[Callable[[np.ndarray], Any]] = [
    Image.fromarray,
    lambda levels: levels,
    lambda levels: torch.from_numpy(levels).permute(2, 0, 1) / 255,
]


def test_pictures_of_any_kind_are_the_same() -> None:
    levels = np.random.default_rng(0).integers(0, 256, (80, 70, 3)).astype(np.uint8)
    clips = [clip(shared_pipe(), image=kind(levels), num_inference_steps=1) for kind in PICTURES]
    assert torch.equal(clips[0], clips[1])
    assert torch.equal(clips[0], clips[2])
