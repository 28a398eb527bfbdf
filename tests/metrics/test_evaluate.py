"""The evaluation of clips from their files: what was put into a clip is found where it was put, and nothing else."""

import dataclasses
import io
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from IPython.core.formatters import PNGFormatter
from numpy.typing import NDArray
from PIL import Image

from tests.real_face import VOICE, head, talking_video, voice
from tests.training.faces import circle, lips
from wanavatar_lab import metrics
from wanavatar_lab.cli import main
from wanavatar_lab.errors import LabError, MediaError, WeightsError
from wanavatar_lab.media import Audio, VideoWriter, read_frames, write_picture
from wanavatar_lab.metrics.evaluate import Evaluation, evaluate, pairs
from wanavatar_lab.metrics.face_readers import profile_of
from wanavatar_lab.metrics.landmarks import Face, VideoLandmarks, read_landmarks, write_landmarks
from wanavatar_lab.metrics.lip_sync import RATE
from wanavatar_lab.metrics.picture_faults import flicker, frozen, is_black, stretches
from wanavatar_lab.runs import Artifact

FPS = 16


def moving(count: int, seed: int = 0, side: int = 96) -> NDArray[np.float64]:
    """Frames of soft coloured blots that drift by half a pixel per frame, [F, side, side, 3] in 60..200."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side] / side
    waves = generator.uniform(1, 3, (3, 2))
    shift = 0.5 / side * np.arange(count)[:, None, None]
    colours = [
        130 + 70 * np.sin(2 * np.pi * (along * (x + shift) + down * y)) * np.cos(2 * np.pi * (down * (y - shift)))
        for along, down in waves
    ]
    return np.stack(colours, axis=-1)


def write(path: Path, frames: NDArray[Any], sound: NDArray[np.float32] | None = None, fps: float = FPS) -> Path:
    audio = None if sound is None else Audio(sound[:, None], 16_000)
    with VideoWriter(path, fps=fps, audio=audio) as video:
        for frame in np.clip(np.round(frames), 0, 255).astype(np.uint8):
            video.write(frame)
    return path


def drawn(path: Path, opening: NDArray[np.float64], sound: NDArray[np.float32], stretched: float = 1.0) -> Path:
    """A clip whose face is known by the landmarks beside it; in its second half the face is wider by `stretched`."""
    count = len(opening)
    faces = []
    for i, gap in enumerate(opening):
        wider = np.array([stretched if i >= count / 2 else 1.0, 1.0])
        # a face that wanders, turns a little and comes nearer is still the same one
        turn = 0.1 * np.sin(i / 9)
        rotation = (1 + 0.002 * i) * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        place = np.array([48 + 4 * np.sin(i / 7), 46])
        oval, outer, inner = (
            (points * wider) @ rotation.T + place
            for points in (circle(0, 0, 24), lips(0, 10, 9), lips(0, 10, 4) * [1, gap] + [0, 10 * (1 - gap)])
        )
        faces.append(Face(oval, outer, inner))
    write(path, moving(count), sound)
    write_landmarks(path, VideoLandmarks(np.arange(count) / FPS, faces, (96, 96)))
    return path


# --- lips


@pytest.mark.parametrize(("late", "fps"), [(0, 16), (3, 16), (-2, 25)])
def test_the_lag_of_a_real_face_is_found_to_the_frame(late: int, fps: int, tmp_path: Path, face_weights: Path) -> None:
    found = evaluate(talking_video(tmp_path / "clip.mp4", voice(3), late=late / fps, fps=fps))
    assert found.faces == "mediapipe" and found.face_found == 1
    (note,) = found.notes
    assert "likeness" in note and "wanavatar-lab weights download face-recognition" in note
    assert found.lips is not None and found.lips.lag == late and found.measures()["lip_lag_ms"] == 1000 * late / fps
    assert found.lips.r is not None and found.lips.r_at_lag is not None and found.lips.r_at_lag > 0.9
    if late == 0:
        assert found.lips.r == found.lips.r_at_lag and 0 < (found.measures()["lip_silence"] or 0) < 10
    else:
        assert found.lips.r < found.lips.r_at_lag - 0.2


def test_the_lag_is_found_where_the_picture_stands_still_first(tmp_path: Path, face_weights: Path) -> None:
    """A recording that shows one frame for six seconds, and then a face that is late by 0.12 s."""
    sound, times = np.pad(voice(3), (6 * RATE, 0)), [0, *range(6 * 25, 9 * 25)]
    found = evaluate(talking_video(tmp_path / "clip.mp4", sound, times=times, late=0.12, fps=25))
    assert found.fps == 25 and found.measures()["lip_lag_ms"] == 120


def test_another_voice_is_not_followed(tmp_path: Path, face_weights: Path) -> None:
    own = talking_video(tmp_path / "own.mp4", voice(3))
    other = voice(3, start=0.5, path=VOICE.with_name("english_male.wav"))
    clips = [own, write(tmp_path / "other.mp4", np.stack(list(read_frames(own))), other)]
    mine, theirs = (evaluate(clip).measures()["lip_r"] for clip in clips)
    assert mine is not None and theirs is not None and mine > 0.9 > 0.5 > theirs


def test_a_known_mouth_gives_its_own_correlation(tmp_path: Path) -> None:
    sound = voice(4)
    level = metrics.loudness(sound, frames=64)
    opening = 0.1 + level / level.max()
    found = evaluate(drawn(tmp_path / "clip.mp4", opening, sound))
    assert found.faces == "drawn" and found.lips is not None
    # the sound in the file went through AAC
    assert found.lips.r == pytest.approx(1, abs=1e-3) and found.lips.lag == 0
    quiet = metrics.lip_sync(opening, sound)
    assert quiet.silence and quiet.speech
    assert found.measures()["lip_silence"] == pytest.approx(100 * quiet.silence / quiet.speech, rel=0.02)


def test_the_curves_of_the_lips_are_those_of_the_clip(tmp_path: Path) -> None:
    sound = voice(4)
    level = metrics.loudness(sound, frames=64)
    opening = 0.1 + np.roll(level, 2) / level.max()
    clip = drawn(tmp_path / "clip.mp4", opening, sound)
    figure = metrics.lip_curves(Artifact(kind="talking", path="clip.mp4").within(tmp_path))
    (axes,) = figure.axes
    seconds, mouth = axes.lines[0].get_data()
    assert np.allclose(seconds, (np.arange(64) + 0.5) / FPS) and np.allclose(mouth, opening / opening.max(), atol=1e-3)
    heard = np.asarray(axes.collections[0].get_paths()[0].vertices)[1:65, 1]
    assert np.allclose(heard, level / level.max(), atol=0.05)
    found = evaluate(clip)
    assert axes.get_title(loc="right") == f"r {found.measures()['lip_r']:.2f}, lips 125 ms late"
    picture = Image.open(io.BytesIO(PNGFormatter()(figure)))
    assert picture.width > 1000 and picture.format == "PNG"
    assert np.array_equal(metrics.lip_curves(found).axes[0].lines[0].get_ydata(), mouth)


def test_a_still_mouth_is_as_open_in_silence_as_in_speech(tmp_path: Path) -> None:
    clip = drawn(tmp_path / "clip.mp4", np.full(64, 0.5), voice(4))
    found = evaluate(clip)
    assert found.lips is not None and found.lips.silence == pytest.approx(found.lips.speech, rel=1e-6)
    assert found.measures()["lip_silence"] == pytest.approx(100, abs=1e-4)
    # the rounding of its landmarks follows no sound, and at no lag
    assert (found.lips.r, found.lips.lag, found.lips.r_at_lag) == (None, None, None)
    assert any("does not change" in note for note in found.notes)


@pytest.mark.parametrize(("begin", "late"), [(0.0, 0), (0.0, 3), (3.6, 0), (3.5, -2)])
def test_a_single_word_at_an_end_of_a_clip_is_followed(tmp_path: Path, begin: float, late: int) -> None:
    sound = np.zeros(4 * 16_000, np.float32)
    word = slice(round(begin * 16_000), round((begin + 0.4) * 16_000))
    sound[word] = 0.3 * np.sin(np.arange(6400) / 12) * np.hanning(6400)
    level = metrics.loudness(sound, frames=64)
    found = evaluate(drawn(tmp_path / "clip.mp4", np.roll(level / level.max(), late), sound))
    assert found.lips is not None and found.lips.lag == late
    assert found.lips.r_at_lag == pytest.approx(1, abs=0.02)


def test_what_cannot_be_measured_is_said(tmp_path: Path) -> None:
    clip = write(tmp_path / "silent.mp4", moving(32))
    found = evaluate(clip)
    assert found.lips is None and found.measures()["lip_r"] is None and found.measures()["face_found"] is None
    assert any("has no sound" in note for note in found.notes)
    assert any("wanavatar-lab weights download face-landmarker" in note for note in found.notes)
    with pytest.raises(WeightsError, match="weights download face-landmarker"):
        evaluate(clip, faces="mediapipe")
    with pytest.raises(LabError, match="no source of faces 'eyes'; there are auto, mediapipe, drawn, pocket"):
        evaluate(clip, faces="eyes")
    with pytest.raises(LabError, match="no landmarks at"):
        evaluate(clip, faces="drawn")
    with pytest.raises(MediaError, match="is a picture"):
        write_picture(tmp_path / "a.png", Image.fromarray(moving(1)[0].astype(np.uint8)))
        evaluate(tmp_path / "a.png")


def test_a_clip_without_a_face_says_so(tmp_path: Path, face_weights: Path) -> None:
    found = evaluate(write(tmp_path / "clip.mp4", moving(32), voice(2)))
    assert found.face_found == 0 and found.lips is None
    assert any("a face was found in 0% of the frames" in note for note in found.notes)


# --- identity


def test_a_face_that_changes_its_shape_is_found_and_one_that_moves_is_not(tmp_path: Path) -> None:
    level = metrics.loudness(voice(8), frames=128)
    same = evaluate(drawn(tmp_path / "same.mp4", level / level.max(), voice(8)))
    wider = evaluate(drawn(tmp_path / "wider.mp4", level / level.max(), voice(8), stretched=1.1))
    assert (same.measures()["face_outline"] or 1) < 0.01
    # a circle and an ellipse with axes 1.1 and 1, after the best scale: ±0.05/1.05 of the radius along either axis
    assert wider.identity is not None and wider.identity.starts == [0, 32, 64, 96]
    expected = 100 * (0.05 / 1.05) / 2 * 1.0
    assert wider.measures()["face_outline"] == pytest.approx(expected, rel=0.06)
    first, second, third, _ = wider.identity.outline
    assert first is not None and second is not None and third is not None and third > 20 * max(first, second)


def test_colours_that_drift_are_found_as_far_as_they_drift(tmp_path: Path) -> None:
    frames = np.repeat(moving(1), 64, axis=0)
    red = np.linspace(0, 30, 64)[:, None, None]
    drifted = frames.copy()
    drifted[..., 0] += red
    steady, moved = (evaluate(write(tmp_path / f"{n}.mp4", each)) for n, each in (("a", frames), ("b", drifted)))
    parts = [drifted[:32], drifted[32:]]
    colours = [metrics.srgb_to_lab(np.round(part).mean(axis=(0, 1, 2)) / 255) for part in parts]
    assert (steady.measures()["colour_drift"] or 0) < 0.1
    assert moved.measures()["colour_drift"] == pytest.approx(float(metrics.delta_e2000(*colours)), abs=0.5)


def test_a_picture_of_the_person_is_what_the_clip_is_compared_with(tmp_path: Path, face_weights: Path) -> None:
    clip = talking_video(tmp_path / "clip.mp4", voice(2))
    picture = head(0.0)
    write_picture(tmp_path / "same.png", Image.fromarray(picture))
    write_picture(tmp_path / "other.png", Image.fromarray((picture * [1.0, 0.8, 0.7]).astype(np.uint8)))
    same, other = (evaluate(clip, reference=tmp_path / f"{name}.png").measures() for name in ("same", "other"))
    assert (same["face_colour"] or 9) < 2 and (other["face_colour"] or 0) > 5
    assert (same["face_outline"] or 9) < 1.5
    write_picture(tmp_path / "wall.png", Image.new("RGB", (96, 96), "grey"))
    nobody = evaluate(clip, reference=tmp_path / "wall.png")
    assert nobody.measures()["face_colour"] is None and nobody.measures()["colour_drift"] is not None
    assert any("wall.png: no face was found" in note for note in nobody.notes)


def test_a_person_who_comes_late_is_compared_with_nobody(tmp_path: Path) -> None:
    clip = drawn(tmp_path / "clip.mp4", np.linspace(0.1, 0.9, 64), voice(4))
    known = read_landmarks(clip)
    write_landmarks(clip, dataclasses.replace(known, faces=[None] * 32 + list(known.faces[32:])))
    found = evaluate(clip)
    assert found.face_found == 0.5 and found.measures()["face_colour"] is None
    assert any("the first part of the clip, which shows none" in note for note in found.notes)


# --- the picture


def test_faults_are_found_where_they_were_put(tmp_path: Path) -> None:
    frames = moving(200)
    frames[20:31] = frames[20]  # frozen
    frames[50:52] = 4  # black
    frames[160:] = moving(240, seed=5)[200:]  # another scene at the second border
    found = evaluate(write(tmp_path / "clip.mp4", frames))
    assert found.frozen == [(20, 31)] and found.black == [(50, 52)]
    assert found.measures()["black_frames"] == 2 and found.measures()["frozen_seconds"] == 11 / FPS
    assert found.borders.frames == [80, 160] and found.borders.jumps is not None
    assert found.borders.jumps[0] < 2 < 10 < found.borders.jumps[1]
    assert found.borders.largest_at in (50, 52) and found.flash_at in (50, 51)
    cut = evaluate(tmp_path / "clip.mp4", borders=[20])
    assert cut.borders.frames == [20] and cut.borders.jumps is not None and cut.borders.jumps[0] < 2
    with pytest.raises(LabError, match=r"\[200\] are not within a clip of 200 frames"):
        evaluate(tmp_path / "clip.mp4", borders=[200])


def test_borders_are_those_of_the_clips_run(tmp_path: Path) -> None:
    clip = write(tmp_path / "clip.mp4", moving(60))
    (tmp_path / "request.json").write_text(json.dumps({"frames_per_segment": 24}))
    assert evaluate(clip).borders.frames == [24, 48]
    (tmp_path / "request.json").write_text(json.dumps({"frames_per_segment": None}))
    assert evaluate(clip).borders.frames == []
    assert evaluate(write(tmp_path / "other_rate.mp4", moving(60), fps=25)).borders.frames == []


def test_flicker_is_as_large_as_it_was_made(tmp_path: Path) -> None:
    frames = moving(48)
    alternating = frames + 5 * (np.arange(48) % 2 * 2 - 1)[:, None, None, None]
    calm, wild = (evaluate(write(tmp_path / f"{n}.mp4", each)) for n, each in (("a", frames), ("b", alternating)))
    assert calm.flicker_luminance < 0.3
    assert wild.flicker_luminance == pytest.approx(10, abs=0.6)  # from -5 to 5


def test_flicker_of_the_texture_is_seen_where_the_luminance_is_calm(tmp_path: Path) -> None:
    frames = moving(48)
    grain = np.random.default_rng(1).normal(0, 8, (1, 96, 96, 1))
    grain -= grain.mean()
    boiling = frames + grain * (np.arange(48) % 2)[:, None, None, None]
    calm, wild = (evaluate(write(tmp_path / f"{n}.mp4", each)) for n, each in (("a", frames), ("b", boiling)))
    assert wild.flicker_luminance < 0.5 and wild.flicker_texture > 0.5 > 0.1 > calm.flicker_texture


@given(st.lists(st.floats(-100, 100), min_size=3, max_size=20), st.floats(-5, 5), st.floats(0, 50))
def test_flicker_is_blind_to_a_trend_and_measures_an_alternation(base: list[float], slope: float, high: float) -> None:
    places = np.arange(len(base))
    assert flicker(slope * places) == pytest.approx(0, abs=1e-9)
    assert flicker(slope * places + high * (places % 2)) == pytest.approx(high, abs=1e-9)
    assert flicker(np.array(base) + slope * places) == pytest.approx(flicker(base), abs=1e-9)


@given(st.lists(st.booleans(), max_size=30))
def test_stretches_are_what_is_true(flags: list[bool]) -> None:
    found = stretches(flags)
    assert [i for start, end in found for i in range(start, end)] == [i for i, flag in enumerate(flags) if flag]
    assert all(before[1] < after[0] for before, after in pairwise(found))


def test_short_rests_are_not_frozen_and_dark_scenes_are_not_black() -> None:
    assert frozen([5, 0, 0, 0, 5], FPS) == [] and frozen([5, 0, 0, 0, 0, 5], FPS) == [(1, 6)]
    night = np.full((50, 50), 20, np.uint8)
    assert is_black(night)
    night[:4, :20] = 90  # a lamp on 3 % of it
    assert not is_black(night)


def test_the_same_clip_gives_the_same_numbers(tmp_path: Path, face_weights: Path) -> None:
    clip = talking_video(tmp_path / "clip.mp4", voice(1.5))
    first, again = evaluate(clip), evaluate(clip)
    assert dataclasses.asdict(first) == dataclasses.asdict(again)


def test_the_length_of_a_chunk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = drawn(tmp_path / "clip.mp4", np.linspace(0, 1, 48), voice(3))
    whole = evaluate(clip)
    monkeypatch.setattr("wanavatar_lab.metrics.evaluate.CHUNK_BYTES", 5 * 96 * 96 * 3)
    assert dataclasses.asdict(evaluate(clip)) == dataclasses.asdict(whole)


# --- toy faces


def test_the_faces_of_a_profile_are_read_by_its_own_reader(tmp_path: Path) -> None:
    import torch

    from training.pocket.world.attributes import usual
    from training.pocket.world.figure import render
    from training.pocket.world.motion import sample_motion

    sound = voice(2)
    level = metrics.loudness(sound, frames=32)
    opening = torch.from_numpy((level / level.max()).astype(np.float32))
    pose = sample_motion(1, 32, seed=1).having(open=opening[None])
    frames = (render(usual(), pose, (128, 128))[0] * 255).permute(0, 2, 3, 1).numpy()
    clip = write(tmp_path / "talking.mp4", frames, sound)
    named = evaluate(clip, faces="pocket")
    assert named.lips is not None and named.lips.r is not None and named.lips.r > 0.9 and named.lips.lag == 0
    # the colours stay, so they differ by little from those of the first part
    assert named.identity is not None and named.identity.colours[1].keys() == {
        *("hair", "skin", "clothes", "background", "picture")
    }
    assert (named.measures()["face_colour"] or 9) < 2
    (tmp_path / "request.json").write_text(json.dumps({"profile": "pocket"}))
    assert dataclasses.asdict(evaluate(clip)) == dataclasses.asdict(named)
    with pytest.raises(LabError, match="squares of a multiple of 64 pixels"):
        evaluate(write(tmp_path / "wide.mp4", frames[:, :64]), faces="pocket")


# --- several clips


def test_clips_of_two_folders_belong_together_by_name_or_else_in_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("one/b.mp4", "one/a.mp4", "two/b.mov", "two/c.mp4", "three/x.mp4", "three/y.mp4", "one/._a.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    assert pairs(one) == [(one / "a.mp4", None), (one / "b.mp4", None)]
    assert not caplog.text
    assert pairs(one, two) == [(one / "b.mp4", two / "b.mov")]
    assert (
        f"Left out, since no clip of the other folder has that name: {one / 'a.mp4'}, {two / 'c.mp4'}." in caplog.text
    )
    assert pairs(one, three) == [(one / "a.mp4", three / "x.mp4"), (one / "b.mp4", three / "y.mp4")]
    assert pairs(one / "a.mp4", two / "c.mp4") == [(one / "a.mp4", two / "c.mp4")]
    with pytest.raises(LabError, match=r"has 2 clips and .*c\.mp4 has 1"):
        pairs(three, two / "c.mp4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabError, match="has no clips"):
        pairs(tmp_path / "empty")
    with pytest.raises(LabError, match="There is no"):
        pairs(tmp_path / "none.mp4")


# --- the command


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    sound = voice(3)
    level = metrics.loudness(sound, frames=48)
    openings = {"good": level / level.max(), "late": np.roll(level / level.max(), 3)}
    return [str(drawn(tmp_path / f"{name}.mp4", opening, sound)) for name, opening in openings.items()]


def test_the_command_prints_json_and_draws(two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *two, "--json", "--picture", str(tmp_path / "two.png")]) == 0
    (pair,) = json.loads(capsys.readouterr().out)
    assert [pair[side]["measures"]["lip_lag_ms"] for side in ("clip", "other")] == [0, 187.5]
    assert pair["clip"] == json.loads(json.dumps(evaluate(two[0]).to_json()))
    assert Evaluation.from_json(pair["clip"]) == evaluate(two[0])
    assert (tmp_path / "two.png").read_bytes().startswith(b"\x89PNG")


def test_the_table_has_a_column_per_clip_and_medians_of_folders(
    two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *two]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == two
    (lag,) = [line for line in lines if line.startswith("Lips late")]
    assert lag.split()[-2:] == ["0", "188"]
    assert main(["evaluate", str(tmp_path), "--picture", str(tmp_path / "all.svg")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "(median of 2)" in lines[0]
    assert [line.split()[-1] for line in lines if line.startswith("Lips late")] == ["94"]
    assert (tmp_path / "all.svg").read_text(encoding="utf-8").count("<svg") == 1


def test_a_damaged_clip_of_a_folder_is_left_out_and_named(
    two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "damaged.mp4").write_bytes(Path(two[0]).read_bytes()[:100])
    assert main(["evaluate", str(tmp_path), "--json"]) == 1
    said = capsys.readouterr()
    *measured, failed = json.loads(said.out)
    assert [each["clip"]["clip"] for each in measured] == sorted(two)
    assert "damaged.mp4" in failed["error"]
    assert failed["error"] in said.err
    assert "1 of 3 clips could not be measured" in said.err
    assert main(["evaluate", str(tmp_path / "damaged.mp4")]) == 1
    assert "of 1 clips" not in capsys.readouterr().err


def test_what_the_command_refuses_it_names(two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", two[0], "--picture", str(tmp_path / "no" / "a.png")]) == 2  # before anything is measured
    assert f"picture: must be in an existing folder; '{tmp_path / 'no'}' does not exist" in capsys.readouterr().err
    assert main(["evaluate", two[0], "--faces", "eyes", "--borders", "8,x", "--picture", "a.gif"]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in ("faces:", "'eyes'", "borders:", "'8,x'", "picture:", "'a.gif'"))
    assert main(["evaluate", "none.mp4"]) == 1
    assert "There is no none.mp4" in capsys.readouterr().err


def test_the_numbers_are_printed_where_the_picture_cannot_be_written(
    two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()

    def measured(*given: Any, **named: Any) -> Any:
        folder.rmdir()  # as somebody may while a long folder of clips is measured
        return evaluate(*given, **named)

    monkeypatch.setattr("wanavatar_lab.metrics.evaluate.evaluate", measured)
    assert main(["evaluate", two[0], "--picture", str(folder / "a.png")]) == 1
    said = capsys.readouterr()
    assert "Lips follow the sound" in said.out
    assert "a.png cannot be written: No such file or directory. Check the folder" in said.err


def test_a_clip_that_was_cut_is_read_as_the_one_it_was_cut_from(tmp_path: Path) -> None:
    def run(name: str, **request: str) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "request.json").write_text(json.dumps(request))
        return tmp_path / name / "clip.mp4"

    made = run("made", stage="speech_to_video", profile="pocket")
    cut = run("cut", stage="trim", media=str(made))
    assert [profile_of(clip) for clip in (made, cut, run("twice", stage="trim", media=str(cut)))] == ["pocket"] * 3
    assert profile_of(run("own", stage="trim", media="/home/me/own.mp4")) is None
    itself = tmp_path / "itself" / "clip.mp4"
    assert profile_of(run("itself", stage="trim", media=str(itself))) is None


def test_a_clip_outside_of_its_run_is_read_by_the_profile_that_it_holds(tmp_path: Path) -> None:
    request = {"stage": "speech_to_video", "profile": "pocket", "frames_per_segment": 24}
    for name, metadata in (("here", {"Software": "WanAvatar Lab", "Request": json.dumps(request)}), ("there", {})):
        with VideoWriter(tmp_path / f"{name}.mp4", fps=16, metadata=metadata) as writer:
            writer.write(np.zeros((32, 32, 3), np.uint8))
    assert [profile_of(tmp_path / f"{name}.mp4") for name in ("here", "there", "nowhere")] == ["pocket", None, None]
