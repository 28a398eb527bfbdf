"""The S2V pipeline: its frames against the reference's, segment by segment, and what its arguments do."""

import json
import weakref
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image

from tests import toys
from tests.s2v.toy import GOLDEN, count_calls, golden_model, golden_tensors, relative_error, toy_vae
from wanavatar_lab.errors import NotFinite, WeightsError
from wanavatar_lab.s2v import WanSpeechToVideoOutput, WanSpeechToVideoPipeline
from wanavatar_lab.s2v.components import load_components
from wanavatar_lab.wan import WanUniPCScheduler
from wanavatar_lab.wan.vae import make_fast

TEXT_DIM = 16


class CountingPipeline(WanSpeechToVideoPipeline):
    """Counts how often it lets go of its offload hooks."""

    freed = 0

    def maybe_free_model_hooks(self) -> None:
        self.freed += 1
        super().maybe_free_model_hooks()


@cache
def shared_pipe() -> CountingPipeline:
    return CountingPipeline(**toys.s2v_pipeline().components)


@pytest.fixture
def pipe() -> CountingPipeline:
    pipe = shared_pipe()
    pipe.freed = 0
    return pipe


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def arguments(**changes: Any) -> dict[str, Any]:
    """Two segments of four frames, two steps each; the first gives one frame."""
    return {
        "image": random(0, 3, 64, 64),
        "audio_features": random(1, 3, 20, 16),
        "prompt_embeds": random(2, 1, 5, TEXT_DIM),
        "negative_prompt_embeds": random(3, 1, 4, TEXT_DIM),
        "height": 64,
        "width": 64,
        "frames_per_segment": 4,
        "motion_frames": 5,
        "num_inference_steps": 2,
        **changes,
    }


def clip(pipe: WanSpeechToVideoPipeline, **changes: Any) -> torch.Tensor:
    frames: torch.Tensor = pipe(output_type="pt", **arguments(**changes)).frames
    return frames


def waveform(seconds: float = 0.4) -> np.ndarray:
    return np.sin(np.arange(round(16_000 * seconds)) / 9).astype(np.float32)


def test_two_segments_equal_the_reference_implementation() -> None:
    golden = golden_tensors("s2v_loop_a/pipeline.safetensors")
    model, vae = golden_model("s2v_loop_a"), toy_vae()
    pipe = WanSpeechToVideoPipeline(
        transformer=model,
        vae=vae,
        scheduler=None,
        text_encoder=None,
        tokenizer=None,
        audio_encoder=None,
        audio_processor=None,
    )
    result = pipe(
        image=Image.open(GOLDEN / "s2v_loop_a" / "image.png"),
        prompt_embeds=golden["prompt_embeds"],
        negative_prompt_embeds=golden["negative_prompt_embeds"],
        audio_features=golden["audio_features_50hz"],
        frames_per_segment=16,
        motion_frames=73,
        num_inference_steps=4,
        guidance_scale=4.5,
        flow_shift=3.0,
        seed=7,
        height=64,
        width=64,
        output_type="pt",
    )
    assert result.frames.shape == (1, 29, 3, 64, 64)
    assert relative_error(result.frames[0].transpose(0, 1), golden["video"] / 2 + 0.5) <= 1e-3
    assert (result.start_frame, result.fps) == (3, 16)


def test_segments_come_one_by_one_and_nothing_of_the_old_ones_stays(pipe: CountingPipeline) -> None:
    old: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    # asked while a segment is computed: what the pipeline holds then is what memory grows by
    hook = pipe.transformer.register_forward_pre_hook(
        lambda *_: alive.append(sum(frames() is not None for frames in old))
    )
    with hook, count_calls({"network": pipe.transformer}) as calls:
        segments = pipe.stream(**arguments(audio_features=random(1, 3, 45, 16)))
        assert calls["network"] == 0
        places = []
        for segment in segments:
            assert calls["network"] == (segment.index + 1) * 2 * 2
            places.append((segment.index, segment.num_segments, segment.start_frame, segment.frames.shape[1]))
            old.append(weakref.ref(segment.frames))
            del segment
    assert places == [(0, 4, 3, 1), (1, 4, 4, 4), (2, 4, 8, 4), (3, 4, 12, 4)]
    assert set(alive) == {0}
    assert pipe.freed == 1


def test_streamed_segments_are_the_whole_clip(pipe: CountingPipeline) -> None:
    streamed = torch.cat([segment.frames for segment in pipe.stream(**arguments())], dim=1)
    assert torch.equal(streamed, clip(pipe))
    assert streamed.shape == (1, 5, 3, 64, 64)
    assert 0 <= streamed.min() < streamed.max() <= 1


def test_the_callback_hears_of_every_step(pipe: CountingPipeline) -> None:
    heard: list[tuple[int, int, int]] = []
    times: list[float] = []

    def callback(given: Any, step: int, timestep: torch.Tensor, tensors: dict[str, Any]) -> None:
        assert given is pipe
        assert set(tensors) == {"latents", "noise_pred", "segment", "num_segments"}
        assert tensors["latents"].shape == tensors["noise_pred"].shape == (1, 16, 1, 8, 8)
        heard.append((tensors["segment"], tensors["num_segments"], step))
        times.append(float(timestep))

    names = ("latents", "noise_pred")
    watched = clip(pipe, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names)
    assert heard == [(0, 2, 0), (0, 2, 1), (1, 2, 0), (1, 2, 1)]
    assert times[:2] == times[2:]
    assert times[0] > times[1]
    assert torch.equal(watched, clip(pipe))


def test_the_callback_may_replace_latents(pipe: CountingPipeline) -> None:
    def zeros_at_the_end(_: Any, step: int, __: torch.Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        return {"latents": torch.zeros_like(tensors["latents"]) if step == 1 else tensors["latents"]}

    replaced = clip(pipe, callback_on_step_end=zeros_at_the_end)
    assert not torch.equal(replaced, clip(pipe))
    # whatever noise was drawn, it is gone
    assert torch.equal(replaced, clip(pipe, callback_on_step_end=zeros_at_the_end, seed=9))


@pytest.mark.parametrize(("segment", "step", "frames"), [(0, 0, 0), (0, 1, 0), (1, 0, 1)])
def test_an_interrupt_ends_within_the_step(pipe: CountingPipeline, segment: int, step: int, frames: int) -> None:
    def interrupt(pipe: WanSpeechToVideoPipeline, now: int, _: torch.Tensor, tensors: dict[str, Any]) -> None:
        pipe._interrupt = (tensors["segment"], now) == (segment, step)

    with count_calls({"network": pipe.transformer}) as calls:
        assert clip(pipe, callback_on_step_end=interrupt).shape == (1, frames, 3, 64, 64)
    assert calls["network"] == 2 * (2 * segment + step + 1)
    assert pipe.interrupt
    assert pipe.freed == 1
    assert clip(pipe).shape[1] == 5


def test_an_interrupt_between_segments_ends_too(pipe: CountingPipeline) -> None:
    segments = pipe.stream(**arguments())
    next(segments)
    pipe._interrupt = True
    assert list(segments) == []


def test_an_error_in_the_callback_leaves_the_pipeline_usable(pipe: CountingPipeline) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no more")

    wanted = clip(pipe)
    pipe.freed = 0
    with pytest.raises(RuntimeError, match="no more"):
        clip(pipe, callback_on_step_end=fail)
    assert pipe.freed == 1
    assert pipe._memories == []
    assert torch.equal(clip(pipe), wanted)


def test_values_that_are_not_finite_are_no_clip(pipe: CountingPipeline) -> None:
    def overflow(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        late = (tensors["segment"], step) == (1, 0)
        return {"latents": tensors["latents"] * (float("inf") if late else 1)}

    with pytest.raises(NotFinite, match=r"^Speech to video, segment 2 of 2: the latents after step 2 of 2 have NaN"):
        clip(pipe, callback_on_step_end=overflow)
    assert pipe.freed == 1 and clip(pipe).shape[1] == 5


def test_a_generator_that_is_closed_early_lets_go(pipe: CountingPipeline) -> None:
    segments: Any = pipe.stream(**arguments())
    first = next(segments).frames
    segments.close()
    assert pipe.freed == 1
    assert pipe._memories == []
    assert torch.equal(clip(pipe)[:, :1], first)


@pytest.mark.parametrize(("asked", "frames"), [(None, 5), (0, 5), (1, 1), (2, 5), (9, 5)])
def test_num_segments_limits_and_never_lengthens(pipe: CountingPipeline, asked: int | None, frames: int) -> None:
    found = clip(pipe, num_segments=asked, num_inference_steps=1)
    assert found.shape[1] == frames
    assert torch.equal(found, clip(pipe, num_inference_steps=1)[:, :frames])


def test_a_part_of_the_features_is_the_clip_of_that_part(pipe: CountingPipeline) -> None:
    features = random(1, 3, 60, 16)
    found = clip(pipe, audio_features=features, audio_start=0.2, audio_duration=0.4)
    assert torch.equal(found, clip(pipe, audio_features=features[:, 10:30]))
    rest = clip(pipe, audio_features=features, audio_start=0.8)
    assert torch.equal(rest, clip(pipe, audio_features=features[:, 40:]))


def test_a_part_of_the_waveform_is_the_clip_of_that_part(pipe: CountingPipeline) -> None:
    audio = waveform(1.0)
    found = clip(pipe, audio_features=None, audio=audio, audio_start=0.25, audio_duration=0.4)
    assert torch.equal(found, clip(pipe, audio_features=None, audio=torch.from_numpy(audio[4000:10_400])))
    assert torch.equal(found, clip(pipe, audio_features=pipe.encode_audio(audio[4000:10_400])))


def test_more_audio_leaves_the_first_segment_as_it_is(pipe: CountingPipeline) -> None:
    # stretched to their ends, 30 Hz frames of another length lie a hair elsewhere, as in the reference
    features = random(1, 3, 101, 16)
    quick = {"num_segments": 1, "num_inference_steps": 1, "frames_per_segment": 8}
    short = clip(pipe, audio_features=features[:, :51], **quick)
    assert relative_error(clip(pipe, audio_features=features, **quick), short) <= 1e-3
    assert relative_error(clip(pipe, audio_features=random(9, 3, 101, 16), **quick), short) > 0


def test_another_voice_is_another_clip(pipe: CountingPipeline) -> None:
    assert relative_error(clip(pipe, audio_features=random(8, 3, 20, 16)), clip(pipe)) > 1e-5


def test_the_pose_video_counts_between_its_start_and_end(pipe: CountingPipeline) -> None:
    pose = random(4, 8, 3, 64, 64)
    plain, posed = clip(pipe), clip(pipe, pose_video=pose)
    assert not torch.equal(posed, plain)
    assert not torch.equal(posed[:, :1], plain[:, :1])
    first_step = clip(pipe, pose_video=pose, pose_end=0.5)
    second_step = clip(pipe, pose_video=pose, pose_start=0.5)
    assert len({frames.sum().item() for frames in (plain, posed, first_step, second_step)}) == 4
    assert torch.equal(clip(pipe, pose_video=pose, pose_end=0.0), plain)
    # one that is too short goes on in black, which is not the same as no pose
    short = clip(pipe, pose_video=pose[:4])
    assert torch.equal(short[:, :1], posed[:, :1])
    assert not torch.equal(short[:, 1:], posed[:, 1:])
    assert torch.equal(short, clip(pipe, pose_video=torch.cat([pose[:4], torch.zeros(4, 3, 64, 64)])))


def test_without_a_pose_video_the_network_sees_zeros(pipe: CountingPipeline) -> None:
    def zeros(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        assert named["pose_latents"] is None
        return given, {**named, "pose_latents": torch.zeros_like(named["hidden_states"])}

    with pipe.transformer.register_forward_pre_hook(zeros, with_kwargs=True):
        wanted = clip(pipe)
    assert relative_error(clip(pipe), wanted) <= 1e-6


def test_a_clip_may_start_from_the_picture(pipe: CountingPipeline) -> None:
    result = pipe(output_type="pt", **arguments(start_from_image=True))
    assert result.start_frame == 0
    assert result.frames.shape[1] == 8
    assert [segment.start_frame for segment in pipe.stream(**arguments(start_from_image=True))] == [0, 4]


@pytest.mark.parametrize(("scale", "passes"), [(0.0, 1), (1.0, 1), (1.01, 2)])
def test_without_guidance_there_is_one_pass(pipe: CountingPipeline, scale: float, passes: int) -> None:
    changes: dict[str, Any] = {} if passes == 2 else {"negative_prompt_embeds": None}
    with count_calls({"network": pipe.transformer}) as calls:
        clip(pipe, guidance_scale=scale, **changes)
    assert calls["network"] == 2 * 2 * passes


def test_guidance_moves_along_the_difference_of_the_passes(pipe: CountingPipeline) -> None:
    predictions: dict[float, torch.Tensor] = {}
    for scale in (1.0, 2.0, 3.0):

        def keep(pipe: Any, _: int, __: torch.Tensor, tensors: dict[str, Any], scale: float = scale) -> None:
            predictions[scale] = tensors["noise_pred"]
            pipe._interrupt = True

        names = ("noise_pred",)
        clip(pipe, guidance_scale=scale, callback_on_step_end=keep, callback_on_step_end_tensor_inputs=names)
    wanted = 2 * predictions[2.0] - predictions[1.0]
    assert relative_error(predictions[3.0], wanted) <= 1e-5
    assert not torch.equal(predictions[2.0], predictions[1.0])


def test_segment_r_draws_its_noise_from_seed_plus_r(pipe: CountingPipeline) -> None:
    noises: list[torch.Tensor] = []
    for seed in (11, 12):
        hook = pipe.transformer.register_forward_pre_hook(
            lambda _, __, named: noises.append(named["hidden_states"].clone()), with_kwargs=True
        )
        with hook:
            clip(pipe, seed=seed, num_inference_steps=1, guidance_scale=1.0)
    assert torch.equal(noises[1], noises[2])
    drawn = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(12))
    assert torch.equal(noises[2][0], drawn)
    assert not torch.equal(noises[0], noises[1])


def test_output_types_agree(pipe: CountingPipeline) -> None:
    tensors = clip(pipe)
    arrays, start_frame = pipe(output_type="np", return_dict=False, **arguments())
    assert start_frame == 3
    assert isinstance(arrays, np.ndarray)
    assert np.array_equal(arrays, tensors.permute(0, 1, 3, 4, 2).numpy())
    result = pipe(output_type="pil", **arguments())
    assert isinstance(result, WanSpeechToVideoOutput)
    (pictures,) = result.frames
    assert [picture.size for picture in pictures] == [(64, 64)] * 5
    levels = np.stack([np.asarray(picture) for picture in pictures])
    assert np.abs(levels / 255 - arrays[0]).max() <= 0.5 / 255 + 1e-6


def test_width_and_height_are_not_mixed_up(pipe: CountingPipeline) -> None:
    result = pipe(output_type="np", **arguments(height=64, width=96, image=Image.new("RGB", (50, 70), "red")))
    assert result.frames.shape == (1, 5, 64, 96, 3)


def test_another_flow_solver_makes_a_clip_too(pipe: CountingPipeline) -> None:
    other = WanSpeechToVideoPipeline(**{**pipe.components, "scheduler": FlowMatchEulerDiscreteScheduler()})
    euler, unipc = clip(other), clip(pipe)
    assert torch.isfinite(euler).all()
    assert 0 < relative_error(euler, unipc) < 0.5
    # one step of both is the same straight line, but for UniPC's whole-numbered timestep
    assert relative_error(clip(other, num_inference_steps=1), clip(pipe, num_inference_steps=1)) <= 2e-3


def test_a_saved_pipeline_makes_the_same_frames(pipe: CountingPipeline, tmp_path: Path) -> None:
    make_fast(pipe.vae)  # as what is loaded does
    pipe.save_pretrained(tmp_path)
    loaded = WanSpeechToVideoPipeline.from_pretrained(tmp_path, torch_dtype=torch.float32, device_map="cpu")
    texts = {"prompt": "a person speaks", "negative_prompt": "the camera"}
    changes = {**texts, "prompt_embeds": None, "negative_prompt_embeds": None, "audio_features": None}
    assert torch.equal(clip(loaded, audio=waveform(), **changes), clip(pipe, audio=waveform(), **changes))


def test_the_scheduler_is_saved_and_loaded_like_every_part(pipe: CountingPipeline, tmp_path: Path) -> None:
    other = FlowMatchEulerDiscreteScheduler(shift=2.5)
    euler = WanSpeechToVideoPipeline(**{**pipe.components, "scheduler": other})
    euler.save_pretrained(tmp_path / "euler")
    loaded = WanSpeechToVideoPipeline.from_pretrained(tmp_path / "euler", torch_dtype=torch.float32)
    assert type(loaded.scheduler) is FlowMatchEulerDiscreteScheduler and loaded.scheduler.config.shift == 2.5
    pipe.save_pretrained(tmp_path / "unipc")
    config = load_components(tmp_path / "unipc")["scheduler"].config
    assert {name: config[name] for name in config if name[0] != "_"} == {
        name: pipe.scheduler.config[name] for name in pipe.scheduler.config if name[0] != "_"
    }
    own = WanSpeechToVideoPipeline(**{**pipe.components, "scheduler": WanUniPCScheduler.shifted(4.0)})
    own.save_pretrained(tmp_path / "own")
    loaded = WanSpeechToVideoPipeline.from_pretrained(tmp_path / "own")
    assert type(loaded.scheduler) is WanUniPCScheduler and loaded.scheduler.config.flow_shift == 4.0
    index = json.loads((tmp_path / "own" / "model_index.json").read_text())
    (tmp_path / "own" / "model_index.json").write_text(json.dumps(index | {"scheduler": ["os", "system"]}))
    with pytest.raises(WeightsError, match=r"scheduler is said to be os\.system, which is no scheduler of diffusers"):
        load_components(tmp_path / "own")


def test_from_pretrained_takes_the_options_of_diffusers(
    pipe: CountingPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe.save_pretrained(tmp_path, variant="fp32")
    with pytest.raises(WeightsError):
        WanSpeechToVideoPipeline.from_pretrained(tmp_path)
    asked: dict[str, Any] = {}

    def download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(tmp_path)

    monkeypatch.setattr("wanavatar_lab.s2v.pipeline.snapshot_download", download)
    loaded = WanSpeechToVideoPipeline.from_pretrained(
        "someone/a-model", torch_dtype=torch.float32, variant="fp32", token="secret", revision="v1", device_map="cpu"
    )
    assert asked == {"repository": "someone/a-model", "token": "secret", "revision": "v1"}
    assert not any(weight.requires_grad for weight in loaded.transformer.parameters())
    make_fast(pipe.vae)
    assert torch.equal(clip(loaded), clip(pipe))
    meta = WanSpeechToVideoPipeline.from_pretrained(tmp_path, variant="fp32", device_map=torch.device("meta"))
    networks = (meta.transformer, meta.vae, meta.text_encoder, meta.audio_encoder)
    assert {weight.device.type for network in networks for weight in network.parameters()} == {"meta"}
    with pytest.raises(ValueError, match="device_map is 'balanced'; need one device"):
        WanSpeechToVideoPipeline.from_pretrained(tmp_path, device_map="balanced")


def test_a_prompt_is_its_embeddings(pipe: CountingPipeline) -> None:
    texts = {"prompt": "a person speaks", "negative_prompt": "the camera"}
    embeds = {f"{name}_embeds": pipe.encode_prompt(text) for name, text in texts.items()}
    assert embeds["prompt_embeds"].shape == (1, 4, TEXT_DIM)  # and the token of the end
    from_text = clip(pipe, **texts, prompt_embeds=None, negative_prompt_embeds=None)
    assert torch.equal(from_text, clip(pipe, **embeds))
    assert not torch.equal(from_text, clip(pipe))


def test_a_long_prompt_is_cut(pipe: CountingPipeline) -> None:
    embeds = pipe.encode_prompt("person " * 700)
    assert embeds.shape == (1, 512, TEXT_DIM)
    assert torch.equal(embeds, pipe.encode_prompt("person " * 512))
    assert clip(pipe, prompt="person " * 700, prompt_embeds=None, num_inference_steps=1).shape[1] == 5
