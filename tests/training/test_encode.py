"""From clip folders to samples: windows, segments, latents and sound in step, and nothing computed twice."""

import io
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from training.data.samples import Samples
from training.data.segments import segments_of, window_about
from training.encode import Encoders, encode, main
from training.launch.folder_locks import training_in
from training.prepare.clip_folder import (
    CAPTION,
    FACE_MASKS,
    IMAGES,
    LIP_MASKS,
    SOUND,
    VALID,
    ClipFolder,
    frame_name,
    read_clip,
)
from wanavatar_lab import media
from wanavatar_lab.errors import LabError
from wanavatar_lab.s2v.pipeline import FIRST_FRAMES_DROPPED, MotionContext
from wanavatar_lab.wan.latents import MOTION_FRAMES, LatentCodec

FRAMES, WIDTH, HEIGHT = 97, 96, 64
ASPECTS = {"square": (64, 64)}


def write_clip(folder: Path, frames: int = FRAMES, seed: int = 0) -> Path:
    """A clip in which a light square moves down; the face is right of the middle."""
    random = np.random.default_rng(seed)
    for kind in (IMAGES, FACE_MASKS, LIP_MASKS):
        (folder / kind).mkdir(parents=True)
    ground = random.integers(40, 90, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    face, lips = np.zeros((HEIGHT, WIDTH), np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
    face[8:56, 56:88], lips[40:48, 64:80] = 255, 255
    for i in range(frames):
        picture = ground.copy()
        picture[i % 56 : i % 56 + 8, 60:68] = 250
        for kind, pixels in ((IMAGES, picture), (FACE_MASKS, face), (LIP_MASKS, lips)):
            Image.fromarray(pixels).save(folder / kind / frame_name(i))
    samples = random.normal(0, 0.1, (frames * 1000, 1)).astype(np.float32)
    media.write_audio(folder / SOUND, media.Audio(samples, 16_000))
    (folder / VALID).write_text(f'{{"valid": {[True] * frames}}}'.replace("True", "true"))
    return folder


@pytest.fixture(scope="module")
def encoders() -> Encoders:
    return Encoders.load("pocket", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, encoders: Encoders) -> Path:
    """A folder with two clips, one of them held out, and its samples."""
    folder = tmp_path_factory.mktemp("data")
    clips = [read_clip(write_clip(folder / f"video_00{i}", frames, i)) for i, frames in enumerate((FRAMES, 32))]
    encode(clips[:1], clips[1:], folder / "samples", encoders, ASPECTS, "a person is talking")
    return folder


@given(st.integers(0, 400), st.sampled_from([16, 48, 80]))
def test_segments_lie_within_their_clip(frames: int, longest: int) -> None:
    segments = segments_of(frames, longest)
    for segment in segments:
        assert segment.frames % 16 == 0 and 16 <= segment.frames <= longest
        assert segment.start >= (16 if segment.continued else 0) and segment.start + segment.frames <= frames
    assert bool(segments) == (frames >= 16)
    assert [segment.continued for segment in segments[:2]] == [False, True][: (frames >= 16) + (frames >= 32)]
    if frames >= 32:  # none of its frames is lost
        seen = {i for each in segments for i in range(each.start, each.start + each.frames)}
        assert seen == set(range(frames))


@given(st.integers(8, 90), st.integers(8, 90), st.integers(0, 89), st.integers(0, 89), st.sampled_from([1, 0.6, 1.7]))
def test_a_window_has_its_shape_and_lies_in_the_frame(rows: int, columns: int, y: int, x: int, ratio: float) -> None:
    face = np.zeros((rows, columns), bool)
    face[min(y, rows - 1), min(x, columns - 1)] = True
    left, top, right, bottom = window_about(face, round(100 * ratio), 100)
    assert 0 <= left < right <= columns and 0 <= top < bottom <= rows
    assert right - left == columns or bottom - top == rows
    assert abs((right - left) - ratio * (bottom - top)) <= 1 + ratio
    # the face is in it, unless it lies where no window of that size can be
    assert left <= min(x, columns - 1) < right and top <= min(y, rows - 1) < bottom


def test_samples_are_what_inference_would_have(folder: Path, encoders: Encoders) -> None:
    samples = Samples(folder / "samples")
    assert len(samples) == 2 and len(Samples(folder / "samples", held_out=True)) == 2
    whole = read_clip(folder / "video_000")
    frames = np.stack([whole.image(i) for i in range(FRAMES)])[:, :, 32:]  # the window lies about the face
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    codec = LatentCodec(encoders.pipeline.vae)
    sound = media.read_audio(whole.sound, rate=16_000, mono=True).samples[:, 0]
    heard = encoders.pipeline.encode_audio(sound).bucket(0, 16, FRAMES)
    grey = torch.zeros(1, 3, 73, 64, 64)
    for entry in samples.entries:
        tensors = load_file(folder / "samples" / f"{entry.name}.safetensors")
        start, continued = int(entry.name.split("-")[2]), "-next-" in entry.name
        length = tensors["target"].shape[1] * 4
        assert torch.equal(tensors["audio"], heard[..., start : start + length])
        assert start == (17 if continued else 0)
        with torch.no_grad():
            if continued:  # from 17 frames, which is fewer than the 73 that inference keeps
                whole_clip = torch.cat([grey, pixels], dim=2)[:, :, start : start + 73 + length]
                expected = codec.encode(whole_clip, torch.device("cpu"))[0]
                assert torch.allclose(tensors["motion"], expected[:, :19], atol=1e-4)
                assert torch.allclose(tensors["target"], expected[:, 19:], atol=1e-4)
            else:  # a first segment stands behind a picture of another moment
                picture = pixels[:, :, FRAMES // 2 : FRAMES // 2 + 1]
                expected = codec.encode(torch.cat([picture, pixels[:, :, :length]], dim=2), torch.device("cpu"))[0]
                assert torch.allclose(tensors["target"], expected[:, 1:], atol=1e-4)
        # 8 × 16 pixels of lips in cells of 8 × 8, in a window that begins 32 pixels further right
        assert tensors["lip"][0].nonzero().tolist() == [[5, 4], [5, 5]]
        assert bool(tensors["valid"].all()) and tensors["face"].shape == (length // 4, 8, 8)
        assert ("motion" in tensors) == continued


class Given(LatentCodec):
    """Decodes whatever it is given to some frames [1, 3, F, H, W]."""

    frames: torch.Tensor

    def decode(self, latents: torch.Tensor, name: str = "", wanted: int | None = None) -> torch.Tensor:
        return self.frames


def test_motion_is_what_inference_continues_from_after_as_many_frames(folder: Path, encoders: Encoders) -> None:
    """The first segment has 20 frames and drops 3; one continuation follows."""
    (entry,) = (entry for entry in Samples(folder / "samples").entries if "-next-" in entry.name)
    trained = load_file(folder / "samples" / f"{entry.name}.safetensors")["motion"]
    clip = read_clip(folder / "video_000")
    frames = np.stack([clip.image(i) for i in range(17)])[:, :, 32:]
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    codec = Given(encoders.pipeline.vae)
    codec.frames = torch.cat([torch.ones(1, 3, FIRST_FRAMES_DROPPED, 64, 64), pixels], dim=2)
    with torch.no_grad():
        motion = MotionContext(codec, pixels[:, :, :1], MOTION_FRAMES, False, torch.device("cpu"))
        assert motion.decode(torch.zeros(1, 16, 5, 8, 8), "segment 2").shape[1] == 17
        motion.advance(17)
    assert motion.motion_latents is not None
    assert torch.allclose(motion.motion_latents[0], trained, atol=1e-4)


def test_what_is_there_is_kept_and_what_is_not_asked_for_goes(folder: Path, encoders: Encoders) -> None:
    clips = [read_clip(folder / f"video_00{i}") for i in range(2)]

    def files() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in (folder / "samples").glob("video_*.safetensors")}

    first = files()
    encode(clips[:1], clips[1:], folder / "samples", encoders, ASPECTS, "a person is talking")
    assert files() == first
    (folder / "video_001" / CAPTION).write_text("a woman sings")
    encode(clips[:1], clips[1:], folder / "samples", encoders, ASPECTS, "a person is talking")
    second = files()
    assert {name for name in first if "video_000" in name} <= second.keys()
    assert len(second) == len(first) and second.keys() != first.keys()


def test_only_samples_are_removed_and_what_is_cut_short_is_encoded_again(tmp_path: Path, encoders: Encoders) -> None:
    clips = [read_clip(write_clip(tmp_path / f"video_00{i}", 32, i)) for i in range(2)]
    samples = tmp_path / "samples"
    samples.mkdir()
    theirs = [samples / name for name in ("my voice.wav", "a-lora.safetensors", "take-0001-first.wav")]
    for file in theirs:
        file.write_bytes(b"of somebody else")
    encode(clips[:1], clips[1:], samples, encoders, ASPECTS, "a person is talking")
    old = {file.name for file in samples.glob("video_001*")}
    (first, *_) = samples.glob("video_000-*-first-*.safetensors")
    whole = first.read_bytes()
    first.write_bytes(whole[:-8])
    encode(clips[:1], [], samples, encoders, ASPECTS, "a person is talking")
    assert first.read_bytes() == whole
    assert len(old) == 3 and not any((samples / name).exists() for name in old)
    assert [file.read_bytes() for file in theirs] == [b"of somebody else"] * 3


def test_for_inpainting_all_that_the_face_comes_to_is_to_be_made(tmp_path: Path, encoders: Encoders) -> None:
    clip = read_clip(write_clip(tmp_path / "video_000", 24))
    encode([clip], [], tmp_path / "samples", encoders, ASPECTS, "a person is talking", inpaint=True)
    first, *_ = Samples(tmp_path / "samples").entries
    found = load_file(tmp_path / "samples" / f"{first.name}.safetensors")
    latents = found["target"].shape[1]
    assert found["inpaint"].shape == (4 + found["target"].shape[0], latents, 8, 8)
    # the face is 48 × 32 pixels, 8 below and 24 right of the window's corner
    wanted = torch.ones(8, 8)
    wanted[1:7, 3:7] = 0
    assert torch.equal(found["inpaint"][:4], wanted.expand(4, latents, 8, 8))
    assert torch.equal(found["target"], load_target(clip, tmp_path / "plain", encoders))


def load_target(clip: ClipFolder, folder: Path, encoders: Encoders) -> torch.Tensor:
    """The first sample's target where nothing is painted."""
    encode([clip], [], folder, encoders, ASPECTS, "a person is talking")
    return load_file(folder / f"{Samples(folder).entries[0].name}.safetensors")["target"]


def test_what_cannot_be_encoded_is_said(tmp_path: Path, encoders: Encoders) -> None:
    short = read_clip(write_clip(tmp_path / "video_000", 12))
    with pytest.raises(LabError, match="nothing to train on"):
        encode([short], [], tmp_path / "samples", encoders, ASPECTS, "a person is talking")
    (tmp_path / "video_path.txt").write_text("video_000\n")
    told = ["--data", str(tmp_path / "video_path.txt"), "--out", str(tmp_path / "out"), "--profile", "pocket"]
    with pytest.raises(SystemExit, match="no aspect 'wide'"):
        main([*told, "--aspects", "wide"])
    with pytest.raises(SystemExit, match="There is no list of clips"):
        main(["--data", str(tmp_path / "gone.txt"), *told[2:]])
    with pytest.raises(SystemExit, match="There is no list of held-out clips"):
        main([*told, "--held-out", str(tmp_path / "gone.txt")])


def test_a_caption_is_read_as_editors_save_it(tmp_path: Path, encoders: Encoders) -> None:
    clip = read_clip(write_clip(tmp_path / "video_000", 32))
    names = []
    for saved in ("a person\nis talking\n", "\ufeffa person is talking", " ", None):
        (tmp_path / "video_000" / CAPTION).unlink(missing_ok=True)
        if saved is not None:
            (tmp_path / "video_000" / CAPTION).write_text(saved, encoding="utf-8")
        names.append(
            [each.name for each in encode([clip], [], tmp_path / "out", encoders, ASPECTS, "a person is talking")]
        )
    assert names.count(names[0]) == 4  # a name has the hash of its prompt
    (tmp_path / "video_000" / CAPTION).write_bytes("사람".encode("cp949"))
    with pytest.raises(LabError, match=r"caption.txt is not UTF-8 .* Save it as UTF-8"):
        encode([clip], [], tmp_path / "out", encoders, ASPECTS, "a person is talking")


def test_no_clip_is_trained_on_and_held_out(tmp_path: Path) -> None:
    words = listed(tmp_path, "video_000", "video_001")
    (tmp_path / "held_out.txt").write_text("video_001\n")
    with pytest.raises(SystemExit, match="video_001 is among the clips to train on and among those held out"):
        main([*words, "--held-out", str(tmp_path / "held_out.txt")])


def listed(folder: Path, *names: str) -> list[str]:
    """A data folder with so many clips, and what encoding is told of it."""
    for i, name in enumerate(names):
        write_clip(folder / name, 32, i)
    (folder / "video_path.txt").write_text("".join(f"{name}\n" for name in names))
    words = ["--profile", "pocket", "--aspects", "square", "--device", "cpu", "--out", str(folder / "samples")]
    return ["--data", str(folder / "video_path.txt"), *words]


def test_a_folder_that_says_nothing_of_it_holds_out_its_last_clip(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(words := listed(tmp_path, "video_000", "video_001"))
    assert "There is no held_out_path.txt, so video_001 is held out." in capsys.readouterr().out
    assert {entry.clip for entry in Samples(tmp_path / "samples", held_out=True).entries} == {"video_001"}
    (tmp_path / "held_out_path.txt").write_text("")
    main(words)
    assert len(Samples(tmp_path / "samples")) == 4 and not len(Samples(tmp_path / "samples", held_out=True))


def test_every_clip_is_said_when_it_is_encoded(tmp_path: Path) -> None:
    words = listed(tmp_path, "video_000", "video_001")
    with redirect_stdout(io.TextIOWrapper(written := io.BytesIO())):
        main(words)
        said = written.getvalue().decode()  # what is in a buffer until the process ends is not in it
    assert "video_000: 1 of 2\nvideo_001: 2 of 2\n2 samples to train on and 2 held out" in said


def test_a_folder_that_cannot_be_made_is_named_and_an_interrupted_encoding_says_what_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = listed(tmp_path, "video_000", "video_001")
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit, match=r"file is no folder\. Move it away, or set --out to a folder"):
        main([*words, "--out", str(tmp_path / "file")])

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("training.encode.write_sample", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 130 and "The same command encodes what is missing" in capsys.readouterr().err


def test_samples_that_a_training_reads_stay_what_they_are(folder: Path, encoders: Encoders, tmp_path: Path) -> None:
    clips = [read_clip(folder / f"video_00{i}") for i in range(2)]
    samples = folder / "samples"
    encode(clips[:1], clips[1:], samples, encoders, ASPECTS, "a person is talking")
    before = (samples / "samples.json").read_text()
    with training_in(tmp_path, samples):
        encode(clips[:1], clips[1:], samples, encoders, ASPECTS, "a person is talking")
        with pytest.raises(LabError, match="uses the samples"):
            encode(clips[:1], [], samples, encoders, ASPECTS, "a person is talking")
    assert (samples / "samples.json").read_text() == before
    assert all((samples / f"{entry.name}.safetensors").is_file() for entry in Samples(samples).entries)
    (samples / "samples.json").write_text("damaged")
    encode(clips[:1], clips[1:], samples, encoders, ASPECTS, "a person is talking")
    assert (samples / "samples.json").read_text() == before


def test_half_of_the_samples_of_clips_of_three_to_ten_seconds_are_continuations() -> None:
    segments = [each for frames in range(48, 161) for each in segments_of(frames)]
    share = sum(each.continued for each in segments) / len(segments)
    print(f"{share:.0%} continuations")
    assert share == 0.5
    assert {(each.frames, each.continued) for each in segments} == {
        *((frames, False) for frames in (48, 64, 80)),
        *((frames, True) for frames in (32, 48, 64, 80)),
    }
    # one of 80 frames that continues from 73, as in inference
    assert [(each.start, each.frames) for each in segments_of(160)] == [(0, 80), (80, 80)]


@pytest.mark.parametrize(("given", "taken"), [("80", 80), ("81", 80), ("16", 16), ("17", 16), ("84", 84)])
def test_frames_are_4n_or_4n_and_1(
    given: str,
    taken: int,
    encoders: Encoders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(Encoders, "load", lambda *_: encoders)  # which takes longer than to encode
    write_clip(tmp_path / "video_000", 32)
    (tmp_path / "video_path.txt").write_text("video_000\n")
    words = ["--data", str(tmp_path / "video_path.txt"), "--out", str(tmp_path / "out"), "--profile", "pocket"]
    main([*words, "--device", "cpu", "--aspects", "square", "--frames", given])
    assert (f"--frames {given} is {taken}" in capsys.readouterr().out) == (int(given) != taken)
    first, *_ = Samples(tmp_path / "out").entries
    found = load_file(tmp_path / "out" / f"{first.name}.safetensors")
    assert found["target"].shape[1] == min(taken, 32) // 4


@pytest.mark.parametrize(
    ("given", "near"), [("82", "80 or 81"), ("83", "84 or 85"), ("12", "16 or 17"), ("-4", "16 or")]
)
def test_frames_that_are_neither_are_refused(given: str, near: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=rf"^{given} frames are not 4n or 4n \+ 1 from 16 on, such as {near}"):
        main(["--data", str(tmp_path), "--out", str(tmp_path / "out"), "--profile", "pocket", f"--frames={given}"])
