"""Dubbing from a recording on disk to a clip on disk: whose pixels are whose, how long it is, and what is refused.

Faces are those of drawn people, found as the profile pocket finds them. All networks are untrained but in the first
test, which needs lips that move with a voice.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from PIL import Image
from safetensors.torch import save_file

from tests import real_face, toys
from tests.queue_for_tests import REPOSITORY
from tests.training.faces import circle, face
from training.pocket.drawn_person import draw_person
from training.pocket.drawn_speech import utterances
from training.pocket.judge.reading import Reader
from wanavatar_lab import jobs, media, metrics
from wanavatar_lab.errors import LabError, RequestError
from wanavatar_lab.metrics.face_masks import draw_mask
from wanavatar_lab.metrics.landmarks import Face, FacesIn, LandmarkSource, read_landmarks
from wanavatar_lab.metrics.mediapipe_landmarks import MediaPipeLandmarks
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.runs.run import Run
from wanavatar_lab.stages import dubbing, speech_to_video
from wanavatar_lab.stages.dubbing import FADE, Recording, bridged, presence
from wanavatar_lab.wan.latents import LatentCodec

WEIGHTS = REPOSITORY / "weights"
VOICE = REPOSITORY / "data" / "samples" / "english_female.wav"
FAR = 0.3  # of a face's width from its outline: beyond any mask


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[float, Path]:
    """A drawn person who speaks for a second and a half, by the frames per second of the file."""
    folder, (said,) = tmp_path_factory.mktemp("recordings"), utterances(1, 1.5, source="shipped")
    return {fps: draw_person(folder / f"{fps}", [said], person=5, fps=fps)[0] for fps in (16.0, 25.0)}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toys.pocket_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def place(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(weights))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path


def dub(video: Path | str, seconds: float, place: Path, **fields: Any) -> Run:
    """Dub a video with a tone of so many seconds by untrained networks; a second and a half are one segment."""
    values = {
        "profile": "pocket",
        "video": str(video),
        "audio": str(toys.voice(place / "v.wav", seconds)),
        "resolution": "64x64",
        "frames_per_segment": 28,
        "num_inference_steps": 1,
        "guidance_scale": 1,
        "seed": 1,
    }
    run = jobs.run_here(SpeechToVideo(**values | fields))
    assert run.status().state == "succeeded", run.status().error
    return run


def frames_of(path: Path) -> np.ndarray:
    return np.stack(list(media.read_frames(path, fps=16)))


def far_from(faces: Sequence[Face | None], size: tuple[int, int]) -> np.ndarray:
    """Where each picture of (height, width) is well outside of its face, by the truth that was drawn, [F, H, W]."""
    return np.stack(
        [np.full(size, True) if each is None else draw_mask(each.oval, size, FAR * each.width) == 0 for each in faces]
    )


def test_a_drawn_recording_speaks_another_voice_and_keeps_its_pixels(
    recordings: dict[float, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the models that ship: a second and a half of them take some seconds."""
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(WEIGHTS))
    fields = {"audio": str(VOICE), "audio_duration": 1.5, "resolution": "128x128"}
    run = dub(recordings[16.0], 1.5, tmp_path, num_inference_steps=4, **fields)
    clip = run.path(run.status().artifacts[0])
    made, recorded = frames_of(clip), frames_of(recordings[16.0])
    assert made.shape == recorded.shape == (24, 128, 128, 3)

    voice = media.read_audio(clip, rate=16_000, mono=True).samples[:, 0]
    opening = Reader.load().opening(made)
    assert metrics.lip_sync(opening, voice).r >= 0.6
    assert metrics.lip_sync(Reader.load().opening(recorded), voice).r < 0.4

    outside = far_from(read_landmarks(recordings[16.0]).faces, (128, 128))
    codec = LatentCodec(AutoencoderKLWan.from_pretrained(WEIGHTS / "pocket" / "video_vae"))
    pixels = torch.from_numpy(recorded[:21]).permute(3, 0, 1, 2)[None] / 127.5 - 1
    with torch.no_grad():
        again = codec.decode(codec.encode(pixels, torch.device("cpu")))[0].permute(1, 2, 3, 0).numpy()
    lost = np.abs((again + 1) * 127.5 - recorded[:21])[outside[:21]]
    difference = np.abs(made.astype(float) - recorded)
    # what the VAE would lose is four times what the encoder of the file does
    assert difference[outside].mean() < lost.mean() / 4
    assert difference[outside].max() < lost.max()
    assert difference[~outside].mean() > 4 * difference[outside].mean()


@pytest.mark.parametrize(
    ("length_by", "seconds", "frames", "said"),
    [
        ("voice", 1.0, 16, "video lasts 1.50 s and the voice 1.00 s: the rest of video is left out."),
        ("voice", 3.1, 50, "video lasts 1.50 s and the voice 3.10 s: it is played to and fro."),
        ("video", 1.0, 24, "video lasts 1.50 s and the voice 1.00 s: silence follows."),
        ("video", 2.5, 24, "video lasts 1.50 s and the voice 2.50 s: the rest of the voice is left out."),
    ],
)
def test_the_length_is_that_of_the_voice_or_of_the_video(
    length_by: str,
    seconds: float,
    frames: int,
    said: str,
    recordings: dict[float, Path],
    place: Path,
    shown: list[np.ndarray],
) -> None:
    run = dub(recordings[16.0], seconds, place, length_by=length_by)
    recorded, faces = frames_of(recordings[16.0]), read_landmarks(recordings[16.0]).faces
    # to the last frame, back to the first, and to the last again
    places = ([*range(24), *range(22, -1, -1), *range(1, 24)])[:frames]
    outside = far_from([faces[i] for i in places], (128, 128))
    assert len(shown) == frames
    assert np.array_equal(np.stack(shown)[outside], recorded[places][outside])
    assert all((made != kept).any() for made, kept in zip(shown, recorded[places], strict=True))
    clip = run.path(run.status().artifacts[0])
    info = media.probe(clip)
    assert (info.frames, info.width, info.fps) == (frames, 128, 16)
    sound = media.read_audio(clip, rate=16_000, mono=True).samples[:, 0]
    assert len(sound) / 16_000 == pytest.approx(frames / 16, abs=0.01)
    if frames == 24:  # half a second after the end of the shorter voice
        assert (np.abs(sound[17_000:23_000]).max() < 0.01) == (seconds == 1.0)
    assert said in run.log_tail(20)


def test_a_preview_is_the_beginning_of_the_clip(
    recordings: dict[float, Path], place: Path, shown: list[np.ndarray]
) -> None:
    dub(recordings[16.0], 1.0, place, frames_per_segment=12)
    whole = np.stack(shown)
    shown.clear()
    dub(recordings[16.0], 1.0, place, frames_per_segment=12, num_segments=1)
    assert np.array_equal(np.stack(shown), whole[:9])


def test_of_25_frames_per_second_the_nearest_ones_are_shown(
    recordings: dict[float, Path], place: Path, shown: list[np.ndarray]
) -> None:
    run = dub(recordings[25.0], 1.0, place)
    recorded = np.stack(list(media.read_frames(recordings[25.0])))
    nearest = [round(k * 25 / 16) for k in range(16)]
    outside = far_from([read_landmarks(recordings[25.0]).faces[i] for i in nearest], (128, 128))
    assert np.array_equal(np.stack(shown)[outside], recorded[nearest][outside])
    assert "video has 25 frames per second and the clip 16: it shows the nearest ones." in run.log_tail(20)


def test_a_clip_has_the_size_of_the_video_whatever_the_models_is(
    recordings: dict[float, Path], place: Path, shown: list[np.ndarray]
) -> None:
    """An animation with odd sides, of which the model sees a square at another scale."""
    recorded, odd = frames_of(recordings[16.0])[:, :97], place / "odd.webp"
    pictures = [Image.fromarray(frame[:, :127]) for frame in recorded]
    pictures[0].save(odd, save_all=True, append_images=pictures[1:], duration=[62, 63] * 12, lossless=True)
    run = dub(odd, 1.0, place)
    assert media.probe(run.path(run.status().artifacts[0])).width == 128  # H.264 has even sides
    facts = run.manifest()["facts"]
    assert (facts["width"], facts["height"]) == (127, 97)
    outside = far_from(read_landmarks(recordings[16.0]).faces[:16], (128, 128))[:, :97, :127]
    kept = np.stack(list(media.read_frames(odd, fps=16)))[:16]
    made = np.stack(shown)
    assert made.shape == kept.shape and np.array_equal(made[outside], kept[outside])
    # 15 columns at each side are not in the model's square
    assert np.array_equal(made[:, :, :15], kept[:, :, :15]) and np.array_equal(made[:, :, -15:], kept[:, :, -15:])
    assert (made != kept)[:, 40:80, 40:90].mean() > 0.5
    log = run.log_tail(20)
    assert "The face is made at 64x64 and scaled to video, which has 127x97 pixels." in log
    assert "The model does not see 24% of video at its sides, which stay as recorded." in log


def test_while_the_face_is_away_the_recording_stays_as_it_is(
    recordings: dict[float, Path], place: Path, shown: list[np.ndarray]
) -> None:
    frames = frames_of(recordings[16.0])
    frames[8:16] = frames[8, 0, 0]  # the wall behind
    with media.VideoWriter(place / "away.mp4", fps=16) as writer:
        for frame in frames:
            writer.write(frame)
    shown.clear()
    run = dub(place / "away.mp4", 1.5, place)
    kept = frames_of(place / "away.mp4")
    changed = np.abs(np.stack(shown).astype(int) - kept).mean(axis=(1, 2, 3))
    assert (changed[8:16] == 0).all() and (np.delete(changed, range(8, 16)) > 0).all()
    assert changed[7] < changed[5] < changed[3], "it fades"
    assert "No face is found in 8 of 24 frames of video, which stay as recorded." in run.log_tail(20)


def test_without_a_face_there_is_one_clear_error(place: Path) -> None:
    with media.VideoWriter(place / "wall.mp4", fps=16) as writer:
        for _ in range(8):
            writer.write(np.full((64, 96, 3), 180, np.uint8))
    voice = str(toys.voice(place / "v.wav", 0.5))
    asked = SpeechToVideo(profile="pocket", video=str(place / "wall.mp4"), audio=voice)
    status = jobs.run_here(asked).status()
    assert status.state == "failed"
    assert status.error == (
        f"{place / 'wall.mp4'} shows no face in any of 8 frames, so there is nothing to dub. Give a video in which the "
        "face is seen from the front, or mark what is made anew with inpaint_mask."
    )


def test_a_mask_takes_the_place_of_the_face(place: Path, shown: list[np.ndarray]) -> None:
    """Black is kept to the pixel, and the soft edge is within the white; a still one, and one that ends earlier."""
    noise = np.random.default_rng(0).integers(0, 255, (8, 64, 96, 3), np.uint8)
    with media.VideoWriter(place / "dog.mp4", fps=16) as writer:
        for frame in noise:
            writer.write(frame)
    white = np.zeros((64, 96), bool)
    white[16:48, 30:60] = True
    Image.fromarray(np.where(white, np.uint8(255), np.uint8(0))).save(place / "mask.png")
    with media.VideoWriter(place / "mask.mp4", fps=16) as writer:
        for _ in range(3):
            writer.write(np.repeat(np.where(white, np.uint8(255), np.uint8(0))[..., None], 3, axis=2))
    kept = frames_of(place / "dog.mp4")
    for name in ("mask.png", "mask.mp4"):
        shown.clear()
        fields = {"inpaint_mask": str(place / name), "image_box": "0,0,48,64"}
        run = dub(place / "dog.mp4", 0.5, place, resolution="auto", **fields)
        assert "image_box has no effect: inpaint_mask says" in run.log_tail()
        made = np.stack(shown)
        assert np.array_equal(made[:, ~white], kept[:, ~white])
        assert (made != kept)[:, 20:44, 34:56].any(axis=(1, 2, 3)).all()


def test_the_picture_says_how_the_face_looks(
    recordings: dict[float, Path], place: Path, shown: list[np.ndarray]
) -> None:
    dub(recordings[16.0], 0.5, place)
    first = frames_of(recordings[16.0])[0]
    by_default = np.stack(shown)
    clips = []
    for name, picture in (("same", first), ("other", first[:, ::-1])):
        shown.clear()
        Image.fromarray(picture).save(place / f"{name}.png")
        dub(recordings[16.0], 0.5, place, image=str(place / f"{name}.png"))
        clips.append(np.stack(shown))
    assert np.array_equal(clips[0], by_default), "without one it is the first frame with the face"
    assert not np.array_equal(clips[1], by_default)


def test_a_lora_trained_for_inpainting_is_shown_the_recording(
    recordings: dict[float, Path], place: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, shown: list[np.ndarray]
) -> None:
    (place / "weights" / "loras" / "mov").mkdir(parents=True)
    (place / "weights" / "pocket").symlink_to(weights / "pocket")
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(place / "weights"))
    network = speech_to_video.load(PROFILES["pocket"], "cpu").pipeline.transformer
    difference = torch.zeros(network.config.num_attention_heads * network.config.attention_head_dim, 36, 1, 2, 2)
    difference[:, 16:].normal_(0, 0.2, generator=torch.Generator().manual_seed(0))
    for name, tensor in (("plain", difference[:, :16].contiguous()), ("inpaint", difference)):
        key = "diffusion_model.patch_embedding.diff"
        save_file({key: tensor}, place / "weights" / "loras" / "mov" / f"{name}.safetensors")
    clips = []
    for name in ("plain", "inpaint"):
        shown.clear()
        dub(recordings[16.0], 0.5, place, loras=name)
        clips.append(np.stack(shown))
    outside = far_from(read_landmarks(recordings[16.0]).faces[:8], (128, 128))
    assert np.array_equal(clips[0][outside], clips[1][outside])
    assert not np.array_equal(clips[0], clips[1])


def test_mediapipe_finds_the_face_of_a_real_recording(
    place: Path, face_landmarker: Path, shown: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dubbing, "landmark_source", lambda profile: MediaPipeLandmarks(face_landmarker))
    with media.VideoWriter(place / "real.mp4", fps=16) as writer:
        for opening in (0.0, 0.5, 1.0, 0.5):
            writer.write(real_face.spoken(opening))
    shown.clear()
    dub(place / "real.mp4", 0.25, place)
    changed = (np.stack(shown) != frames_of(place / "real.mp4")).any(axis=(0, 3))
    rows, columns = np.nonzero(changed)
    # the face is 185 pixels wide and 201 high, about its lips at (268, 279)
    assert columns.min() > 268 - 140 and columns.max() < 268 + 140 and rows.min() > 279 - 230 and rows.max() < 279 + 160
    assert changed[260:300, 240:300].mean() > 0.99


class Two(LandmarkSource):
    """Two people, the one at the left larger."""

    def identity(self, video: Path) -> str:
        return "two"

    @contextmanager
    def everyone(self, video: Path) -> Iterator[FacesIn]:
        yield lambda frame, seconds: [face(40, 60, 30), face(100, 60, 20)]


def nothing() -> None: ...


def test_of_several_people_the_largest_speaks_or_the_one_in_the_box(recordings: dict[float, Path]) -> None:
    for box, x in ((None, 40), ((80, 0, 128, 128), 100)):
        recording = Recording(str(recordings[16.0]), 64, 64)
        faces = recording.find_faces(Two(), 4, nothing, box)
        assert len(faces) == (2 if box is None else 1)
        mask = recording.mask_of(0)
        assert mask[60, x] == 1 and mask[60, 140 - x] == 0
    with pytest.raises(LabError, match="shows no face in the part that image_box names in any of 4 frames"):
        Recording(str(recordings[16.0]), 64, 64).find_faces(Two(), 4, nothing, (0, 0, 10, 10))


def test_a_face_outside_of_what_the_model_sees_is_an_error(
    recordings: dict[float, Path], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dubbing, "landmark_source", lambda profile: Two())
    asked: dict[str, Any] = {"video": str(recordings[16.0]), "audio": str(toys.voice(place / "v.wav", 0.25))}
    for box, state in (("80,0,48,128", "failed"), ("0,0,64,128", "succeeded")):
        request = SpeechToVideo(profile="pocket", resolution="64x128", image_box=box, num_inference_steps=1, **asked)
        status = jobs.run_here(request).status()
        assert status.state == state
        if state == "failed":
            assert str(status.error).startswith("64x128 shows the model the middle of video, and the face is outside")


def test_a_mask_covers_the_near_frames_faces_and_is_soft(recordings: dict[float, Path]) -> None:
    recording = Recording(str(recordings[16.0]), 128, 128)
    recording.find_faces(Two(), 4, nothing)
    mask = recording.mask_of(1)
    assert mask[30 + 2 : 90 - 2, 40].min() == 1, "all of the face"
    assert np.count_nonzero((mask > 0) & (mask < 1)) > 100
    assert mask[:, 40][60 + 30 + 12 :].max() == 0 and mask[:, 40][: 60 - 30 - 8].max() == 0


def test_gaps_of_few_frames_are_bridged_and_longer_ones_fade() -> None:
    found = bridged([face(20), None, None, face(50), *[None] * 6, face(50)])
    assert [None if each is None else round(each.centre[0]) for each in found[:5]] == [20, 30, 40, 50, None]
    assert found[1] is not None and np.allclose(found[1].oval, circle(30, 64, 40))
    assert found[4:10] == [None] * 6
    shares = [presence(found, place) for place in range(11)]
    assert shares == [(4 - k) / (FADE + 1) for k in range(4)] + [0.0] * 6 + [1 / (FADE + 1)]
    assert presence([face()] * 3, 0) == 1, "the ends of a clip are no gaps"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "image: is required, unless a video is given: the path of a picture file"),
    ({"video": "v.mp4", "inpaint_video": "w.mp4"}, "inpaint_video: is not used with video"),
    ({"video": "v.mp4", "start_from_image": True}, "start_from_image: is not used with video; switch it off"),
]


@pytest.mark.parametrize(("fields", "message"), REFUSED)
def test_what_does_not_go_together_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        SpeechToVideo(audio="a.wav", **fields)


def _sound(place: Path) -> Path:
    return toys.voice(place / "s.wav")


def _picture(place: Path) -> Path:
    return toys.picture(place / "p.png")


@pytest.mark.parametrize(
    ("file", "fields", "message"),
    [
        (_sound, {}, r"video: .*s\.wav is a sound\. Give a video of the person"),
        (_picture, {}, r"video: .*p\.png is a picture\. Give a video of the person"),
        (None, {"image_box": "100,0,64,64"}, "image_box: must be within the video, which has 128x128 pixels"),
    ],
)
def test_a_file_that_is_no_recording_is_refused_at_submit(
    file: Callable[[Path], Path] | None,
    fields: dict[str, Any],
    message: str,
    recordings: dict[float, Path],
    place: Path,
) -> None:
    video = recordings[16.0] if file is None else file(place)
    voice = str(toys.voice(place / "v.wav", 0.5))
    with pytest.raises(RequestError, match=message):
        jobs.submit(SpeechToVideo(profile="pocket", video=str(video), audio=voice, **fields))
