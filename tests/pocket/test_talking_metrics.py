"""The judge and the figures of talking clips: measured on drawn frames, of which the truth is known."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import save_file
from torch import Tensor

from tests import toys
from training.pocket.judge.actions import movements
from training.pocket.judge.evaluate import colour_figures, drawn, reading_figures
from training.pocket.judge.network import POINTS, REGION_SIZE, REGIONS, SIZE, TRACKS, Judge
from training.pocket.judge.pictures import FAMILIES, draw_stills, points_of, regions_of, shifted, tracks_of
from training.pocket.judge.reading import WEIGHTS, Reader
from training.pocket.judge.train import main as train_judge
from training.pocket.speech.clips import SAMPLES_PER_FRAME, Clip, Corpus, Recorded, write_corpus
from training.pocket.speech.mouth import relative_loudness, speech_mouth
from training.pocket.talking.evaluate import Run
from training.pocket.talking.evaluate import main as evaluate
from training.pocket.talking.figures import clip_figures, summary, verdict
from training.pocket.talking.sources import Drawn, Pipeline, Talking, reference_picture, softened
from training.pocket.talking.spoken import PACES, Spoken, long_speech, silence, spoken_clips
from training.pocket.world.attributes import sample_attributes
from training.pocket.world.figure import render, sheet_of
from training.pocket.world.motion import ACTIONS, sample_motion
from training.pocket.world.pose import MOUTH, Pose
from training.pocket.world.truth import landmarks_of
from training.pocket.world.visemes import FPS, Sound
from wanavatar_lab import media, metrics
from wanavatar_lab.errors import WeightsError
from wanavatar_lab.metrics.face_masks import fill_polygon

ROOT = Path(__file__).parents[2]
VAE = ROOT / "weights" / "pocket" / "video_vae"


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader.load()


@pytest.fixture(scope="module")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The voices of data/samples, said by mouths that open with every sound."""
    folder = tmp_path_factory.mktemp("corpus")
    clips = []
    for path in sorted((ROOT / "data" / "samples").glob("*.wav")):
        voice = media.read_audio(path, rate=16_000, mono=True).samples[:, 0]
        frames = len(voice) // SAMPLES_PER_FRAME
        voice = voice[: frames * SAMPLES_PER_FRAME]
        events = [Sound(0.0, frames / FPS, "AA")]
        track = speech_mouth(events, relative_loudness(voice, frames=frames))
        clip = Clip("held_out", "sentences", "en", path.stem, "espeak", 175, 50, path.stem, frames)
        heard = metrics.loudness(voice, frames=frames)
        clips.append(Recorded(clip, voice, events, track.mouth.numpy(), np.zeros(frames, np.int64), heard))
    write_corpus(folder / "speech.safetensors", clips)
    return folder


@pytest.fixture(scope="module")
def corpus(corpus_folder: Path) -> Corpus:
    return Corpus(corpus_folder)


@pytest.mark.slow  # test_shipped_models.py reads mouths that were made
def test_the_mouth_is_read_from_drawn_frames_and_from_what_the_vae_makes_of_them(reader: Reader) -> None:
    vae = AutoencoderKLWan.from_pretrained(VAE, torch_dtype=torch.float32).eval().requires_grad_(False)
    assert reading_figures(reader, 2, 49, None)["opening"]["r"] > 0.97
    assert reading_figures(reader, 1, 33, vae)["opening"]["r"] > 0.95


def test_one_frame_is_read_like_the_same_frame_among_others_and_at_another_size(reader: Reader) -> None:
    frames = drawn(sheet_of(sample_attributes(3, seed=5), sample_motion(3, 1, seed=5)), None)
    together = reader.read(frames)
    assert reader.read(frames[1:2]).tracks["yaw"] == pytest.approx(together.tracks["yaw"][1:2], abs=1e-4)
    large = reader.read(frames.repeat(2, axis=1).repeat(2, axis=2))
    assert large.points["nose"] == pytest.approx(2 * together.points["nose"], abs=3)
    assert large.tracks["opening"] == pytest.approx(together.tracks["opening"], abs=0.1)
    with pytest.raises(ValueError, match="96 x 128"):
        reader.read(frames[:, :96])


def test_faces_are_where_they_were_drawn_in_frames_of_any_shape_and_nowhere_else(reader: Reader) -> None:
    size, count = (96, 144), 12
    attributes, pose = sample_attributes(count, seed=11), sample_motion(count, 1, seed=5)
    pictures = (render(attributes, pose, size)[:, 0] * 255).round().byte().permute(0, 2, 3, 1).numpy()
    true = landmarks_of(sheet_of(attributes, pose), *size)["face_oval"].numpy()
    overlaps = []
    with reader.everyone(Path("a.mp4")) as faces_in:
        for picture, oval in zip(pictures, true, strict=True):
            (face,) = faces_in(picture, 0.0)
            found, wanted = (fill_polygon(outline, size) > 0 for outline in (face.oval, oval))
            overlaps.append((found & wanted).sum() / (found | wanted).sum())
        assert np.mean(overlaps) > 0.8 and min(overlaps) > 0.7
        for colour in (0, 128, 255):
            assert not faces_in(np.full((96, 144, 3), colour, np.uint8), 0.0)


def test_colours_left_alone_are_near_and_changed_ones_as_far_as_they_were_changed(reader: Reader) -> None:
    found = colour_figures(reader, 3)
    assert all(found[name]["same_median"] < 1.5 for name in REGIONS if "same_median" in found[name])
    assert all(found[name]["changed_median"] < 3 for name in REGIONS if "changed_median" in found[name])


def true_tracks(actions: tuple[str, ...], seed: int, frames: int = 49) -> dict[str, np.ndarray]:
    sheet = sheet_of(sample_attributes(1, seed), sample_motion(1, frames, seed, [actions]))
    return dict(zip(TRACKS, tracks_of(sheet).double().numpy().T, strict=True))


@pytest.mark.parametrize("action", ACTIONS)
def test_true_tracks_say_which_movement_happened(action: str) -> None:
    for seed in (1, 2):
        happened = {name for name, score in movements(true_tracks((action,), seed)).items() if score >= 1}
        assert happened == {action}


def test_idle_clips_have_no_movement_and_short_ones_tell_none() -> None:
    happened = [name for seed in range(6) for name, score in movements(true_tracks((), seed)).items() if score >= 1]
    assert happened == []
    with pytest.raises(ValueError, match="clip of 31 frames is too short"):
        movements(true_tracks((), 0, frames=31))


def test_movements_are_seen_in_frames(reader: Reader) -> None:
    for number, actions in enumerate([("nod",), ("turn left", "zoom in"), ("pan right",), ("close eyes",)]):
        sheet = sheet_of(sample_attributes(1, number, "held_out"), sample_motion(1, 49, number, [actions]))
        happened = {name for name, score in movements(reader.read(drawn(sheet, None)).tracks).items() if score >= 1}
        assert happened == set(actions)


def test_truth_of_places_and_regions_is_that_of_the_picture() -> None:
    attributes = sample_attributes(2, seed=3).having(hat="none", glasses="none", hair="bob", background="plain")
    sheet = sheet_of(attributes, Pose.of(2, 1, {"pan_x": torch.tensor([[0.0], [0.25]])}))
    masks = regions_of(sheet, SIZE, SIZE)
    assert masks.min() > -1e-4 and masks.sum(dim=1).max() < 1 + 1e-4
    # the camera goes to the right, so everything goes to the left, by an eighth of the picture
    tracks = dict(zip(TRACKS, tracks_of(sheet).T, strict=True))
    shift = points_of(sheet)[:, POINTS.index("nose"), 0]
    own = attributes["figure_x"] * 0.05
    assert (tracks["place_x"] - own).tolist() == pytest.approx([0, -0.25], abs=1e-6)
    assert (shift - own)[0] - (shift - own)[1] == pytest.approx(0.25, abs=1e-5)
    # a region's colour changes in its mask and nowhere else
    before, after = (
        drawn(each, None).astype(int)
        for each in (sheet, shifted(sheet, "clothes", Tensor([1.0] * 3), Tensor([0.2, 0, 0])))
    )
    changed = torch.from_numpy(np.abs(after - before).max(axis=-1) > 12)
    clothes = masks[:, list(FAMILIES).index("clothes")]
    assert changed.any() and clothes[changed].min() > 0.2
    assert not changed[clothes < 0.05].any()


def test_stills_are_the_same_every_time_and_of_every_kind() -> None:
    first, second = draw_stills(6, seed=4), draw_stills(6, seed=4)
    assert torch.equal(first.pixels, second.pixels) and torch.equal(first.tracks, second.tracks)
    assert first.regions.shape == (6, len(REGIONS), REGION_SIZE, REGION_SIZE)
    assert len(first.joined(second)) == 12
    assert not torch.equal(first.pixels, draw_stills(6, seed=5).pixels)


def test_training_makes_weights_that_read(tmp_path: Path) -> None:
    out = tmp_path / "judge" / "mouth.safetensors"
    sizes = ["--stills", "8", "--softened", "9", "--batch", "4", "--vae", str(VAE)]
    for steps in ("1", "2"):
        train_judge(["--run", str(tmp_path / "run"), "--out", str(out), "--steps", steps, *sizes])
    assert json.loads((tmp_path / "run" / "state.json").read_text())["step"] == 2
    frames = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    reading = Reader.load(out).read(frames)
    assert set(reading.tracks) == set(TRACKS) and set(reading.points) == set(POINTS)
    assert reading.regions["hair"].shape == (2, REGION_SIZE, REGION_SIZE)


def test_the_shipped_judge_is_small_and_a_missing_or_foreign_one_is_said(tmp_path: Path) -> None:
    assert WEIGHTS.stat().st_size <= 1 << 20
    with pytest.raises(WeightsError, match=r"python -m training\.pocket\.judge\.train"):
        Judge.load(tmp_path / "none.safetensors")
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="not a judge of this release"):
        Judge.load(tmp_path / "other.safetensors")


def test_conditions_keep_what_is_said_and_paces_keep_mouth_and_sound_together(corpus: Corpus) -> None:
    clean, noisy, fast = (spoken_clips(corpus, 2, name, frames=500) for name in ("clean", "noisy", "fast"))
    for first, second, third in zip(clean, noisy, fast, strict=True):
        assert first.voice == second.voice == third.voice
        np.testing.assert_array_equal(first.clean, second.clean)
        np.testing.assert_array_equal(first.mouth, second.mouth)
        assert not np.array_equal(first.sound, second.sound)
        assert third.frames == pytest.approx(first.frames / PACES["fast"], abs=1)
        for spoken in (first, third):
            level = metrics.loudness(spoken.clean, frames=spoken.frames)
            assert metrics.correlation(spoken.mouth[:, MOUTH.index("open")], level) > 0.9
    assert [spoken.frames for spoken in spoken_clips(corpus, 2, "slow", frames=20)] == [20, 20]
    assert len({spoken.voice for spoken in spoken_clips(corpus, 4)}) == 4
    with pytest.raises(ValueError, match="'underwater'"):
        spoken_clips(corpus, 1, "underwater")
    with pytest.raises(ValueError, match="4 clips in 'held_out', not 5"):
        spoken_clips(corpus, 5)


def test_long_speech_and_silence_are_as_long_as_asked(corpus: Corpus) -> None:
    long = long_speech(corpus, 150)
    assert long.frames == 150 and len(long.sound) == 150 * SAMPLES_PER_FRAME
    nothing = silence(20)
    assert nothing.frames == 20 and not nothing.mouth.any() and 0 < np.abs(nothing.sound).max() < 0.01


@pytest.mark.slow  # parts of a long clip
def test_softening_in_parts_is_no_worse_after_the_seam() -> None:
    vae = AutoencoderKLWan.from_pretrained(VAE, torch_dtype=torch.float32).eval().requires_grad_(False)
    attributes, pose = sample_attributes(1, seed=1), sample_motion(1, 18, seed=2)
    clip = softened(attributes, pose, vae, at_a_time=12)
    plain = softened(attributes, pose, None)
    assert clip.shape == plain.shape == (18, SIZE, SIZE, 3)
    # as near to the drawing after the seam at frame 12 as before it
    error = np.square(clip.astype(float) - plain).mean(axis=(1, 2, 3))
    assert error[12:].mean() < 1.3 * error[:12].mean()


def test_a_clip_that_talks_passes_and_one_that_says_something_else_does_not(corpus: Corpus, reader: Reader) -> None:
    first, second, *_ = spoken_clips(corpus, 4, frames=85)
    source = Drawn(None)
    right = clip_figures(source.talk(first, 1), first, second.clean, reader)
    wrong = clip_figures(source.talk(second, 1), first, second.clean, reader)
    silent = [{"mean": 0.01, "most": 0.02}]
    good, bad = (verdict(summary({"clean": [clip]}, [clip], silent)) for clip in (right, wrong))
    missed = {each["what"] for each in good if not each["met"]}
    assert {what for what in missed if not what.startswith("borders")} == set()
    missed = {each["what"] for each in bad if not each["met"]}
    assert {"clean: opening against loudness, r", "clean: opening against another clip's loudness, r"} <= missed


def test_a_person_who_changes_is_found_out(corpus: Corpus, reader: Reader) -> None:
    spoken = spoken_clips(corpus, 1, frames=40)[0]
    talking = Drawn(None).talk(spoken, 1)
    other = Talking(talking.frames, talking.start_frame, reference_picture(2))
    asked = verdict(summary({"clean": [clip_figures(other, spoken, spoken.clean[::-1], reader)]}, [], []))
    assert any("CIEDE2000" in each["what"] and not each["met"] for each in asked)


def test_a_run_keeps_its_clips_and_what_they_had(tmp_path: Path, corpus: Corpus) -> None:
    spoken = spoken_clips(corpus, 1, frames=20)[0]
    made = []

    class Counted(Drawn):
        def talk(self, spoken: Spoken, seed: int) -> Talking:
            made.append(seed)
            return super().talk(spoken, seed)

    run = Run(tmp_path, Counted(None))
    figures = [run.figures(spoken, 3, lambda talking: {"frames": len(talking.frames)}) for _ in range(2)]
    assert figures == [{"frames": 17}] * 2 and made == [3]
    clip = media.probe(tmp_path / f"{spoken.name}.mp4")
    assert clip.frames == 20 and clip.audio_rate is not None


def test_the_command_measures_the_drawing_and_says_it_in_json(
    tmp_path: Path, corpus_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--run-dir", str(tmp_path / "run"), "--source", "drawn", "--corpus", str(corpus_folder)]
    evaluate([*arguments, "--clips", "2", "--conditions", "clean", "--seconds", "1", "--long-clips", "0"])
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["source"] == "drawn" and found["lips"]["clean"]["clips"] == 2
    assert found == json.loads((tmp_path / "run" / "figures.json").read_text())


def test_the_pipeline_is_measured_too(tmp_path: Path, corpus: Corpus, reader: Reader) -> None:
    spoken = spoken_clips(corpus, 1, frames=20)[0]
    source = Pipeline(toys.pocket_weights(tmp_path), steps=1, size=64)
    source.request = source.request.changed(frames_per_segment=16)
    talking = source.talk(spoken, 0)
    assert talking.frames.shape == (17, 64, 64, 3) and talking.frames.dtype == np.uint8
    assert talking.start_frame == 3 and talking.reference.shape == (64, 64, 3)
    assert set(clip_figures(talking, spoken, spoken.clean[::-1], reader)) >= {"r", "lag", "person", "movement"}
