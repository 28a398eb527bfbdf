"""The stage speech_to_video from request to file, on untrained networks of the true classes."""

import errno
import json
import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc
from PIL import Image
from safetensors.torch import save_file
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model

import wanavatar_lab
from tests import real_face, toys
from tests.media.samples import mux
from tests.s2v.toy import GOLDEN, golden_model, golden_tensors, toy_vae
from training.pocket.saving import save_all_parts
from wanavatar_lab import jobs, media, read_settings
from wanavatar_lab.errors import Cancelled, LabError, RequestError
from wanavatar_lab.files import sha256_of
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.runs.finish import finish_run
from wanavatar_lab.runs.status import Status
from wanavatar_lab.s2v import WanSpeechToVideoPipeline
from wanavatar_lab.s2v.pipeline import MotionContext
from wanavatar_lab.stages import speech_to_video
from wanavatar_lab.stages.context import StageContext, Step
from wanavatar_lab.stages.people import say_who_is_in
from wanavatar_lab.worker.progress import ProgressMeter

STEPS = 3


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.pocket_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def place(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(weights))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WANAVATAR_WORKER_IDLE_SECONDS", "3")
    return tmp_path


def request(place: Path, seconds: float = 1.0, **fields: Any) -> SpeechToVideo:
    values = {
        "profile": "pocket",
        "image": str(toys.picture(place / "a.png")),
        "audio": str(toys.voice(place / "v.wav", seconds)),
        "resolution": "64x64",
        "frames_per_segment": 16,
        "num_inference_steps": STEPS,
        "seed": 1,
        "lead_in": False,  # else a voice of a second takes two segments of one
    }
    return SpeechToVideo(**values | fields)


def frames_of_run(place: Path, **fields: Any) -> np.ndarray:
    run = jobs.run_here(request(place, **fields))
    assert run.status().state == "succeeded", run.status().error
    return np.stack(list(media.read_frames(run.path(run.status().artifacts[0]))))


def test_the_clip_is_as_long_as_the_voice_and_says_what_made_it(place: Path) -> None:
    run = jobs.run_here(request(place, seconds=2.3))
    status = run.status()
    assert status.state == "succeeded", status.error
    clip = media.probe(run.path(status.artifacts[0]))
    assert (clip.width, clip.height, clip.fps) == (64, 64, 16)
    assert clip.frames == 37  # 2.3 s are 36.8 frames
    assert clip.duration == pytest.approx(37 / 16, abs=0.5 / 16)
    sound = media.read_audio(run.path(status.artifacts[0]))
    assert sound.seconds == pytest.approx(37 / 16, abs=1 / 16)
    facts = run.manifest()
    assert facts["seed"] == 1
    assert "transformer/diffusion_pytorch_model.safetensors" in json.dumps(facts)
    said = read_settings(run.path(status.artifacts[0]))
    given, voice = run.request(), run.request().input_files()["audio"]
    assert said.to_request() == given.changed(image="a.png", audio=voice.name, seed=1)
    assert said.weights == facts["facts"]["weights"]
    assert said.inputs["audio"]["sha256"] == sha256_of(voice)
    assert str(place).encode() not in run.path(status.artifacts[0]).read_bytes()


def test_decoding_has_its_part_of_the_progress_and_of_the_time_left(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Status] = []
    report = ProgressMeter.step

    def watched(meter: ProgressMeter, step: Step) -> None:
        report(meter, step)
        said.append(meter.status)

    monkeypatch.setattr(ProgressMeter, "step", watched)
    assert jobs.run_here(request(place, seconds=2.0)).status().state == "succeeded"
    # the second segment is decoded together with the 19 latents before it, the first with that of the picture alone
    phases = [
        [("denoise", step, STEPS) for step in range(STEPS + 1)] + [("decode", step, many) for step in range(many + 1)]
        for many in (1 + 4, 19 + 4)
    ]
    found = [(status.phase, status.step, status.steps, status.segment) for status in said]
    assert found == [(*phase, index) for index, segment in enumerate(phases, 1) for phase in segment]
    fractions = [status.fraction for status in said]
    assert fractions == sorted(fractions)
    for segment in (1, 2):
        of_segment = [status for status in said if status.segment == segment]
        denoised = max(status.fraction for status in of_segment if status.phase == "denoise")
        decoded = max(status.fraction for status in of_segment if status.phase == "decode")
        assert denoised < decoded == min(0.99, segment / 2)
    assert all(status.eta_seconds is not None for status in said if status.phase == "decode")


def test_the_log_says_what_the_clip_leaves_out(place: Path) -> None:
    with media.VideoWriter(place / "pose.mp4", fps=16) as writer:
        for _ in range(16):
            writer.write(np.zeros((96, 64, 3), np.uint8))
    wide = str(toys.picture(place / "wide.png", (160, 64)))
    given: dict[str, Any] = {"image": wide, "pose_video": str(place / "pose.mp4"), "num_inference_steps": 1}
    run = jobs.run_here(request(place, prompt="word " * 600, resolution="80x64", length_by="video", **given))
    assert run.status().state == "succeeded", run.status().error
    log = run.log_tail(50)
    assert "50% of image (160x64) is cut off at left and right to fill 80x64. resolution auto" in log
    assert "47% of pose_video (64x96) is cut off at top and bottom to fill 80x64.\n" in log
    assert "At 80x64 the oldest motion frames are packed without 16 pixels at the right; sides" in log
    assert "length_by video has no effect without a video to dub: the clip is as long as the voice.\n" in log
    # with the end of the text there are 601
    assert "prompt has 601 tokens: the model reads the first 512, and 89 are left out" in log

    whole = jobs.run_here(request(place, image=wide, resolution="auto", num_inference_steps=1))
    assert whole.status().state == "succeeded", whole.status().error
    assert (whole.manifest()["facts"]["width"], whole.manifest()["facts"]["height"]) == (192, 80)
    assert "4% of image (160x64) is cut off at left and right to fill 192x80.\n" in whole.log_tail(50)


def test_the_same_seed_gives_the_same_pictures_and_another_does_not(place: Path) -> None:
    def frames(seed: int) -> np.ndarray:
        run = jobs.run_here(request(place, seed=seed))
        return np.stack(list(media.read_frames(run.path(run.status().artifacts[0]))))

    first = frames(1)
    assert np.array_equal(first, frames(1))
    assert not np.array_equal(first, frames(2))


def test_a_picture_and_a_recording_become_the_frames_of_the_reference(
    place: Path, shown: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From files on disk to frames before encoding: how both are prepared, two segments, and how they are joined."""
    golden, files = golden_tensors("s2v_loop_a/pipeline.safetensors"), GOLDEN / "file_to_frames"
    toy = toys.s2v_pipeline()
    toy.register_modules(
        transformer=golden_model("s2v_loop_a"),
        vae=toy_vae(),
        audio_encoder=Wav2Vec2Model.from_pretrained(files / "audio_encoder"),
        audio_processor=Wav2Vec2FeatureExtractor.from_pretrained(files / "audio_encoder"),
    )
    save_all_parts(toy, "speech_to_video", place / "weights")
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(place / "weights"))
    # the golden data have the embeddings of both prompts, and no text encoder
    monkeypatch.setattr(WanSpeechToVideoPipeline, "encode_prompt", lambda _, name: golden[f"{name}_embeds"])
    made = SpeechToVideo(
        profile="pocket",
        image=str(files / "picture.png"),
        audio=str(files / "voice.wav"),
        prompt="prompt",
        negative_prompt="negative_prompt",
        resolution="64x64",
        frames_per_segment=16,
        num_inference_steps=4,
        guidance_scale=4.5,
        seed=7,
        lead_in=False,
    )
    status = jobs.run_here(made).status()
    assert status.state == "succeeded", status.error
    # 1.7 s are 28 frames; the first one belongs to the fourth frame of the sound and is held until then
    wanted = golden_tensors("file_to_frames/io.safetensors")["video"].permute(1, 2, 3, 0).numpy()
    wanted = np.concatenate([wanted[:1]] * 3 + [wanted])[:28]
    assert len(shown) == 28
    difference = np.abs(np.stack(shown).astype(int) - wanted)
    assert difference.max() <= 1, "rounding may fall to either side"
    assert difference.mean() <= 0.01


def test_a_preview_is_the_beginning_of_the_clip_with_its_sound(place: Path, shown: list[np.ndarray]) -> None:
    """Frames before they are encoded: the network hears all of the voice, whatever the number of segments."""
    frames_of_run(place, seconds=2.3)
    whole = np.stack(shown)
    shown.clear()
    run = jobs.run_here(request(place, seconds=2.3, num_segments=1))
    assert np.array_equal(np.stack(shown), whole[:16])
    assert media.probe(run.path(run.status().artifacts[0])).frames == 16
    assert abs(media.read_audio(run.path(run.status().artifacts[0])).seconds - 1.0) <= 1 / 16


def test_part_of_the_voice_is_spoken(place: Path) -> None:
    run = jobs.run_here(request(place, seconds=2.3, audio_start=0.5, audio_duration=0.75))
    assert media.probe(run.path(run.status().artifacts[0])).frames == 12


@pytest.mark.parametrize(("seconds", "fields"), [(0.02, {}), (2.0, {"audio_start": 1.5, "audio_duration": 0.02})])
def test_sound_that_is_too_short_is_refused_at_submit_in_the_users_numbers(
    place: Path, seconds: float, fields: dict[str, float]
) -> None:
    start = fields.get("audio_start", 0)
    said = f"audio: .*v.wav has 0.020 s of sound to speak from {start:g} s on, and at least 0.025 s are needed"
    with pytest.raises(RequestError, match=said):
        jobs.submit(request(place, seconds, **fields))
    with pytest.raises(RequestError, match=r"audio: .*v\.wav has no sound after 9 s"):
        jobs.submit(request(place, seconds, audio_start=9.0))
    assert not list((place / "runs").glob("[!.]*"))


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_sound_that_is_just_long_enough_is_spoken(place: Path, rate: int) -> None:
    voice = toys.voice(place / "w.wav", 0.03, rate)
    assert len(frames_of_run(place, audio=str(voice), audio_duration=0.025)) == 1


def test_a_step_cache_is_gone_when_the_next_run_does_not_ask_for_it(place: Path) -> None:
    models = speech_to_video.load(PROFILES["pocket"], "cpu")

    def pictures(**fields: Any) -> np.ndarray:
        folder = Path(tempfile.mkdtemp(dir=place))
        (artifact,) = speech_to_video.run(request(place, **fields), models, StageContext(folder, seed=1))
        return np.stack(list(media.read_frames(folder / artifact.path)))

    plain = pictures()
    cached = pictures(step_cache="first_block", step_cache_threshold=1.0)
    assert not np.array_equal(plain, cached)
    assert np.array_equal(plain, pictures())


def test_a_pose_video_is_followed_in_a_part_of_the_steps(place: Path) -> None:
    poses = place / "pose.mp4"
    with media.VideoWriter(poses, fps=25) as writer:
        for level in range(40):
            writer.write(np.full((48, 64, 3), level * 6, np.uint8))
    plain, followed = frames_of_run(place), frames_of_run(place, pose_video=str(poses))
    assert not np.array_equal(plain, followed)

    run = jobs.run_here(request(place, pose_video=str(poses), pose_end=0.5))
    half = np.stack(list(media.read_frames(run.path(run.status().artifacts[0]))))
    assert not np.array_equal(half, plain) and not np.array_equal(half, followed)
    assert "pose_video is followed in 2 of 3 steps." in run.log_tail(20)
    # between two steps there is none
    assert np.array_equal(plain, frames_of_run(place, pose_video=str(poses), pose_start=0.4, pose_end=0.6))
    with pytest.raises(RequestError, match=r"pose_start: must be below pose_end, which is 0.3 \(got 0.3\)"):
        request(place, pose_start=0.3, pose_end=0.3)


def test_the_other_solver_makes_another_clip_and_leaves_no_trace(place: Path) -> None:
    models = speech_to_video.load(PROFILES["pocket"], "cpu")
    seen: list[int] = []
    models.pipeline.transformer.register_forward_pre_hook(
        lambda _, __, given: seen.append(int(given["timestep"])), with_kwargs=True
    )

    def pictures(solver: str) -> np.ndarray:
        folder, fields = Path(tempfile.mkdtemp(dir=place)), {"flow_shift": 3.0, "guidance_scale": 1.0}
        asked = request(place, sample_solver=solver, num_inference_steps=8, **fields)
        (artifact,) = speech_to_video.run(asked, models, StageContext(folder, seed=1))
        return np.stack(list(media.read_frames(folder / artifact.path)))

    unipc = pictures("unipc")
    seen.clear()
    dpm = pictures("dpm++")
    assert seen == golden_tensors("flow_dpm_a.safetensors")["8_3.0_timesteps"].tolist()
    assert not np.array_equal(unipc, dpm)
    assert np.array_equal(unipc, pictures("unipc"))


def test_beyond_the_end_of_a_pose_video_the_pose_is_black(place: Path, shown: list[np.ndarray]) -> None:
    poses = place / "pose.mp4"
    with media.VideoWriter(poses, fps=16) as writer:
        for level in range(8):
            writer.write(np.full((64, 64, 3), 90 + level * 20, np.uint8))
    shown.clear()
    run = jobs.run_here(request(place, seconds=2.3, pose_video=str(poses)))
    assert run.status().state == "succeeded", run.status().error
    assert "pose_video lasts 0.50 s and the voice 2.30 s: black frames follow" in run.log_tail()
    clip = np.stack(shown)
    shown.clear()
    frames = list(media.read_frames(poses)) + [np.zeros((64, 64, 3), np.uint8)] * 40

    class Extended(speech_to_video.VideoFrames):
        def __getitem__(self, window: slice) -> torch.Tensor:
            return torch.from_numpy(np.stack(frames[window])).permute(0, 3, 1, 2) / 255

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(speech_to_video, "VideoFrames", Extended)
        jobs.run_here(request(place, seconds=2.3, pose_video=str(poses)))
    assert np.array_equal(clip, np.stack(shown))


def test_with_a_lead_in_the_first_frame_is_made_for_the_first_sound(place: Path, shown: list[np.ndarray]) -> None:
    """The frames are those of a voice behind 3/16 s of silence, without the frames of that; the sound is as it was."""
    poses = place / "pose.mp4"
    with media.VideoWriter(poses, fps=16) as writer:
        for level in range(40):
            writer.write(np.full((64, 64, 3), 250 - level * 6, np.uint8))
    voice = media.read_audio(toys.voice(place / "v.wav", 1.5))
    delayed = media.Audio(np.pad(voice.samples, ((3000, 0), (0, 0))), voice.rate)
    media.write_audio(place / "delayed.wav", delayed)
    shown.clear()
    frames_of_run(place, audio=str(place / "delayed.wav"))
    wanted = np.stack(shown)
    assert len(wanted) == 27 and (wanted[:4] == wanted[3]).all()  # three are held
    shown.clear()
    run = jobs.run_here(request(place, seconds=1.5, lead_in=True))
    assert np.array_equal(np.stack(shown), wanted[3:])
    clip = run.path(run.status().artifacts[0])
    assert media.probe(clip).frames == 24 and media.read_audio(clip).seconds == pytest.approx(1.5, abs=1e-3)
    shown.clear()
    preview = jobs.run_here(request(place, seconds=1.5, lead_in=True, num_segments=1))
    assert np.array_equal(np.stack(shown), wanted[3:16])
    assert media.probe(preview.path(preview.status().artifacts[0])).frames == 13
    # a pose belongs to the same sound, with or without it
    led = speech_to_video.VideoFrames(str(poses), 64, 64, lead=3)
    plain = speech_to_video.VideoFrames(str(poses), 64, 64)
    assert torch.equal(led[slice(0, 16)][3:], plain[slice(0, 13)])
    assert torch.equal(led[slice(16, 32)], plain[slice(13, 29)])
    assert torch.equal(led[slice(0, 3)], plain[slice(0, 1)].expand(3, -1, -1, -1))
    # a clip from the picture begins with the sound anyway
    shown.clear()
    frames_of_run(place, start_from_image=True)
    wanted = np.stack(shown)
    shown.clear()
    frames_of_run(place, start_from_image=True, lead_in=True)
    assert np.array_equal(np.stack(shown), wanted)


ENDS: dict[str, BaseException] = {
    "an error": RuntimeError("the network is broken"),
    "no memory": MemoryError(),
    "no memory of the GPU": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    "a full disk": OSError(errno.ENOSPC, "No space left on device"),
    "a cancel": Cancelled(),
}


@pytest.mark.parametrize("end", ENDS)
def test_segments_that_are_finished_are_kept_however_the_run_ends(
    end: str, place: Path, shown: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = MotionContext.decode

    def end_in_the_third_segment(motion: MotionContext, latents: torch.Tensor, name: str) -> torch.Tensor:
        if motion.start_frame >= 32:
            raise ENDS[end]
        return decode(motion, latents, name)

    monkeypatch.setattr(MotionContext, "decode", end_in_the_third_segment)
    run = jobs.run_here(request(place, seconds=2.3, num_inference_steps=1))
    status = run.status()
    assert status.state == ("cancelled" if end == "a cancel" else "failed")
    made = [(artifact.kind, artifact.file, artifact.role) for artifact in status.artifacts]
    assert made == [("talking", "talking.partial.mp4", "partial")]
    kept = run.path(status.artifacts[0])
    assert f". Its first 2.00 s are finished and kept in {kept}." in status.message
    clip = media.probe(kept)
    assert (clip.kind, clip.frames, clip.width, clip.missing) == ("video", 32, 64, "")
    assert media.read_audio(kept).seconds == pytest.approx(2.0, abs=0.03)
    # the first frame is held until its sound, and all are as they were made
    assert len(shown) == 32
    decoded = list(media.read_frames(kept))
    assert max(np.abs(made.astype(int) - read).mean() for made, read in zip(shown, decoded, strict=True)) <= 12
    assert [made["role"] for made in run.manifest()["artifacts"]] == ["partial"]
    assert not [path for path in run.folder.iterdir() if path.suffix == ".mp4" and path != kept]
    # where the worker is killed while it finishes the run, the supervisor finishes it again
    assert finish_run(run, status.state, error=status.error, last=Status()).artifacts == status.artifacts


@pytest.mark.slow
def test_segments_that_are_finished_are_kept_when_the_worker_is_killed(place: Path) -> None:
    job = jobs.submit(request(place, seconds=60, num_inference_steps=10))
    deadline = time.monotonic() + 300
    while (status := job.status()).segment is None or status.segment < 3:
        assert not status.ended, status.error
        assert time.monotonic() < deadline
        time.sleep(0.02)
    job.cancel(now=True)
    status = job.wait(30, check=False)
    assert status.state == "cancelled"
    (kept,) = status.artifacts
    # the muxer may hold back a frame until the sound beside it comes. Of the two segments before, the second may still
    # be written when the process ends
    assert 15 <= (media.probe(job.run.path(kept)).frames or 0) <= 16 * (status.segment or 0)


def test_only_the_masked_part_of_a_video_is_made_anew(
    place: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A LoRA whose patch embedding was trained sees the video and the mask; without one the request is refused."""
    shutil.copytree(weights, place / "weights")
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(place / "weights"))
    recording, mask = place / "recording.mp4", place / "mask.png"
    with media.VideoWriter(recording, fps=25) as writer:
        for level in range(40):
            writer.write(np.full((64, 64, 3), 255 - level * 6, np.uint8))
    Image.fromarray(np.repeat(np.arange(64) < 32, 64).reshape(64, 64).astype(np.uint8) * 255).save(mask)

    given: dict[str, Any] = {"inpaint_video": str(recording), "inpaint_mask": str(mask)}
    with pytest.raises(RequestError, match="inpaint_mask: is required with inpaint_video"):
        request(place, inpaint_video=str(recording))
    refused = jobs.run_here(request(place, **given)).status()
    assert refused.state == "failed" and "no LoRA of this request" in str(refused.error)

    loras = place / "weights" / "loras" / "mov"
    loras.mkdir(parents=True)
    network = speech_to_video.load(PROFILES["pocket"], "cpu").pipeline.transformer
    generator = torch.Generator().manual_seed(0)
    difference = torch.zeros(network.config.num_attention_heads * network.config.attention_head_dim, 36, 1, 2, 2)
    difference[:, 16:].normal_(0, 0.2, generator=generator)
    save_file({"diffusion_model.patch_embedding.diff": difference}, loras / "inpaint.safetensors")
    plain = frames_of_run(place)
    assert not np.array_equal(plain, frames_of_run(place, loras="inpaint", **given))
    # where nothing is given, the trained channels see zeros
    assert np.array_equal(plain, frames_of_run(place, loras="inpaint"))


def test_a_mask_is_white_where_the_clip_is_made_anew(tmp_path: Path) -> None:
    picture = tmp_path / "mask.png"
    Image.fromarray((np.arange(64) < 16)[:, None].repeat(64, 1).astype(np.uint8) * 200).save(picture)
    still = speech_to_video.VideoFrames(str(picture), 64, 64, is_mask=True)[slice(8, 12)]
    assert still.shape == (4, 1, 64, 64) and still[:, :, :15].min() == 1 and still[:, :, 18:].max() == 0
    with media.VideoWriter(tmp_path / "mask.mp4", fps=16) as writer:
        for level in (0, 0, 255, 255):
            writer.write(np.full((64, 64, 3), level, np.uint8))
    moving = speech_to_video.VideoFrames(str(tmp_path / "mask.mp4"), 64, 64, is_mask=True)
    assert moving.shape == (4, 1, 64, 64)
    assert moving[slice(0, 6)].mean(dim=(1, 2, 3)).tolist() == [0, 0, 1, 1]


def test_a_pose_may_be_a_picture_and_no_sound(place: Path) -> None:
    Image.new("RGB", (64, 48), (100,) * 3).save(place / "still.png")
    plain = frames_of_run(place, num_inference_steps=1)
    assert not np.array_equal(plain, frames_of_run(place, num_inference_steps=1, pose_video=str(place / "still.png")))
    refused = jobs.run_here(request(place, pose_video=str(place / "v.wav"))).status()
    assert refused.error == f"{place / 'v.wav'} has sound and no picture. Give a video or a picture."


def test_hdr_is_read_as_sdr_and_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = mux(
        tmp_path / "pose.mov",
        video="libx265",
        pixels="yuv420p10le",
        frames=[np.full((64, 64, 3), round(65535 * 0.75), np.uint16)] * 4,  # reference white of HLG
        tags=(ColorTrc.ARIB_STD_B67, ColorPrimaries.BT2020, Colorspace.BT2020),
        video_options={"x265-params": "log-level=none"},
    )
    pose = speech_to_video.VideoFrames(str(path), 64, 64)
    assert pose[slice(0, 4)].min() >= 235 / 255
    assert "pose.mov is HDR (HLG)" in caplog.text


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_an_animation_is_a_video_of_its_length_and_a_still_is_held(tmp_path: Path, suffix: str) -> None:
    shades = [Image.new("RGB", (64, 64), (shade,) * 3) for shade in (0, 100, 200)]
    shades[0].save(tmp_path / f"a.{suffix}", save_all=True, append_images=shades[1:], duration=250)
    frames = speech_to_video.VideoFrames(str(tmp_path / f"a.{suffix}"), 64, 64)
    assert frames.seconds == pytest.approx(0.75) and frames.shape == (3, 3, 64, 64)
    read = frames[0:20].mean(dim=(1, 2, 3)) * 255
    assert read.tolist() == pytest.approx([0] * 3 + [100] * 4 + [200] * 5, abs=4)  # the nearest ones
    shades[1].save(tmp_path / f"still.{suffix}")
    still = speech_to_video.VideoFrames(str(tmp_path / f"still.{suffix}"), 64, 64)
    assert len(still[16:36]) == 20 and still[16:36].unique().tolist() == pytest.approx([100 / 255], abs=0.01)


def test_a_loss_in_an_input_is_said_once_in_the_log_with_the_users_file(place: Path) -> None:
    voice = media.read_audio(toys.voice(place / "v.wav", 1.0))
    media.write_audio(place / "s.wav", media.Audio(np.concatenate([voice.samples, -voice.samples], 1), voice.rate))
    picture = toys.picture(place / "a.png").read_bytes()
    (place / "cut.png").write_bytes(picture[: len(picture) * 9 // 10])
    run = jobs.run_here(request(place, image=str(place / "cut.png"), audio=str(place / "s.wav")))
    assert run.status().state == "succeeded"
    log = (run.folder / "log.txt").read_text()
    assert log.count(f"{place / 's.wav'} has one of its two channels inverted") == 1
    assert log.count(f"{place / 'cut.png'} is cut short or damaged: ") == 1 and ".inputs" not in log


def test_of_two_people_each_is_named_by_a_box_before_the_run(tmp_path: Path, face_weights: Path) -> None:
    person = Image.fromarray(real_face.portrait())
    for name, at in (("across", (person.width, 40)), ("down", (30, person.height))):
        two = Image.new("RGB", (person.width + at[0], person.height + at[1]), "gray")
        two.paste(person, (0, 0))
        two.paste(person, at)
        two.save(tmp_path / f"{name}.png")
    for image, box, boxes in (
        ("across", None, [(0, 512), (512, 512)]),
        ("down", None, [(0, 600), (600, 600)]),
        ("across", "512,0,512,640", []),
    ):
        folder = tmp_path / f"{image} {box}"
        folder.mkdir()
        asked = SpeechToVideo(image=str(tmp_path / f"{image}.png"), audio="a.wav", image_box=box)
        say_who_is_in(asked.read_image(), asked, StageContext(folder, 0))
        log = (folder / "log.txt").read_text() if boxes else ""
        assert (folder / "log.txt").exists() == bool(boxes) == ("shows 2 faces" in log)
        named = [[int(side) for side in one] for one in re.findall(r"(\d+),(\d+),(\d+),(\d+)", log)]
        whole = Image.open(tmp_path / f"{image}.png").size
        for (left, top, width, height), (begin, length) in zip(named, boxes, strict=True):
            found = (left, width, top, height) if image == "across" else (top, height, left, width)
            # half-way between equal faces
            assert found[2:] == (0, whole[image == "across"])
            assert found[:2] == pytest.approx((begin, length), abs=80) and left + width <= whole[0]


def test_the_part_of_a_picture_that_is_asked_for_is_all_that_the_model_sees(place: Path) -> None:
    whole = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 96, 3), np.uint8))
    whole.save(place / "two.png")
    whole.crop((48, 0, 96, 48)).save(place / "right.png")
    part = frames_of_run(place, image=str(place / "two.png"), image_box="48, 0, 48, 48", resolution="auto")
    assert np.array_equal(part, frames_of_run(place, image=str(place / "right.png"), resolution="auto"))


@pytest.mark.parametrize("box", ["0,0,97,48", "60,0,48,48", "0,1,96,48"])
def test_a_box_outside_of_the_picture_is_refused_at_submit(place: Path, box: str) -> None:
    Image.new("RGB", (96, 48)).save(place / "two.png")
    with pytest.raises(RequestError, match=f"image_box: must be within the picture, which has 96x48 pixels .*{box}"):
        jobs.submit(request(place, image=str(place / "two.png"), image_box=box))


def test_the_bare_pipeline_comes_in_process(place: Path) -> None:
    pipeline = wanavatar_lab.load("speech_to_video", profile="pocket", device="cpu")
    folder = place / "weights" / "pocket" / "speech_to_video"
    clip: dict[str, Any] = {
        "image": np.zeros((64, 64, 3), np.uint8),
        "audio": np.sin(np.arange(8000, dtype=np.float32)),
        "prompt": "a person",
        "guidance_scale": 1.0,
        "height": 64,
        "width": 64,
        "frames_per_segment": 8,
        "num_inference_steps": 1,
    }
    frames = pipeline(**clip).frames
    pipeline.save_pretrained(folder)
    again = WanSpeechToVideoPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    assert np.array_equal(frames, again(**clip).frames)
    with pytest.raises(LabError, match="tiny"):
        wanavatar_lab.load("speech_to_video", profile="tiny")


def test_missing_weights_are_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(place / "nowhere"))
    status = jobs.run_here(request(place)).status()
    assert status.state == "failed"
    assert str(place / "nowhere") in (status.error or "")
