"""The whole preparation on videos of a drawn person, whose landmarks are known."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.pocket.drawn_person import STYLES, Style, draw_person, draw_video
from training.pocket.drawn_speech import Utterance, utterances
from training.pocket.world.attributes import usual
from training.prepare.__main__ import main
from training.prepare.clip_folder import FACE_MASKS, FACTS, FPS, LIP_MASKS, RATE, read_clip, read_clips
from training.prepare.clips import FILES, Options
from training.prepare.cuts import LONGEST, SHORTEST
from training.prepare.prepare import Outcome, prepare
from training.prepare.report import Prepared
from wanavatar_lab.errors import LabError
from wanavatar_lab.files import remove
from wanavatar_lab.media import read_audio, read_frame
from wanavatar_lab.metrics.landmarks import DrawnLandmarks, VideoLandmarks, read_landmarks, sidecar, write_landmarks

ROOT = Path(__file__).resolve().parents[3]
NONE_HELD_OUT = Options(hold_out=0)


def quietly(line: str) -> None:
    """Hear what is said, and say nothing."""


def said(count: int = 1, seconds: float = 4.0, seed: int = 0) -> list[Utterance]:
    """What ships, so that the tests are the same on every machine."""
    return utterances(count, seconds, seed=seed, source="samples")


def prepared(folder: Path, options: Options = NONE_HELD_OUT) -> Outcome:
    return prepare(folder / "videos", folder / "data", DrawnLandmarks(), options, quietly)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a data folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_drawn_person_becomes_clips_with_the_masks_of_their_lips(tmp_path: Path) -> None:
    (video,) = draw_person(tmp_path / "videos", said(), style=STYLES["unusual"], size=(128, 128))
    (clip,) = prepared(tmp_path).clips
    folder, known = read_clip(clip.path), read_landmarks(video)
    assert (folder.width, folder.height) == (128, 128) and folder.valid().all()
    assert clip.problems == () and clip.measures.face_found == 1 and clip.measures.lag == 0
    first = round(float(clip.facts["start"]) * FPS)
    for index in (0, 17, folder.frames - 1):
        face = known.faces[first + index]
        assert face is not None
        mask = folder.mask(LIP_MASKS, index)
        assert set(np.unique(mask)) == {0, 255}
        rows, columns = np.nonzero(mask)
        grown = 0.02 * face.width
        for places, points in ((columns, face.lips_outer[:, 0]), (rows, face.lips_outer[:, 1])):
            assert places.min() == pytest.approx(points.min() - grown, abs=1.5)
            assert places.max() + 1 == pytest.approx(points.max() + grown, abs=1.5)
        assert (folder.mask(FACE_MASKS, index)[mask > 0] == 255).mean() > 0.95
    assert 0 < (clip.measures.lip_area or 0) < (clip.measures.face_area or 0) < 0.7


@pytest.mark.parametrize("name", sorted(FILES - {FACTS}))  # without its facts it is taken for somebody else's
def test_a_clip_of_which_a_file_was_deleted_is_made_again(name: str, tmp_path: Path) -> None:
    draw_person(tmp_path / "videos", said(), size=(64, 64))
    (clip,) = prepared(tmp_path).clips
    before = contents(tmp_path / "data" / "processed")
    remove(clip.path / name)
    assert prepared(tmp_path).made == 1
    assert contents(tmp_path / "data" / "processed").keys() == before.keys()
    assert prepared(tmp_path).made == 0


def test_25_frames_a_second_keep_the_mouth_in_step_and_long_videos_are_cut(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    parts = said(3, 3.5)
    pause = np.zeros((6, parts[0].mouth.shape[1]), np.float32)
    mouth = np.concatenate([track for part in parts for track in (part.mouth, pause)])
    sound = np.concatenate([s for part in parts for s in (part.sound, np.zeros(6000, np.float32))])
    long = Utterance.of("long", sound, mouth)
    known = draw_video(tmp_path / "videos/long.mp4", long, usual(), size=(65, 70), fps=25)
    assert known.size == (66, 70)
    clips = prepared(tmp_path).clips
    assert len(clips) >= 2 and all(abs(clip.measures.lag or 0) <= 1 for clip in clips)
    assert all(SHORTEST <= read_clip(clip.path).frames <= LONGEST for clip in clips)
    starts = [float(clip.facts["start"]) for clip in clips]
    assert starts == sorted(starts) and starts[1] > 3
    # the landmarks that were taken are those of the frame that is shown: its lips are where the picture has them
    folder = read_clip(clips[1].path)
    nearest = known.nearest(starts[1] + 5 / FPS)
    face = known.faces[nearest]
    assert face is not None and abs(known.seconds[nearest] - starts[1] - 5 / FPS) <= 0.02
    centre = np.argwhere(folder.mask(LIP_MASKS, 5)).mean(axis=0) + 0.5
    assert centre[::-1] == pytest.approx(face.lips_outer.mean(axis=0), abs=1.5)


def test_frames_without_a_face_are_recorded_or_filled_as_the_predecessor_did(tmp_path: Path) -> None:
    (video,) = draw_person(tmp_path / "videos", said(), size=(64, 64))
    known = read_landmarks(video)
    gone = [None if i < 8 or 30 <= i < 36 else face for i, face in enumerate(known.faces)]
    write_landmarks(video, VideoLandmarks(known.seconds, gone, known.size))
    (clip,) = prepared(tmp_path).clips
    folder = read_clip(clip.path)
    first = round(float(clip.facts["start"]) * FPS)
    missing = [i - first for i, face in enumerate(gone) if face is None and 0 <= i - first < folder.frames]
    assert np.flatnonzero(~folder.valid()).tolist() == missing and len(missing) > 6
    assert not any(folder.mask(kind, i).any() for kind in (FACE_MASKS, LIP_MASKS) for i in missing)
    assert clip.measures.face_found == pytest.approx(1 - len(missing) / folder.frames, abs=1e-4)
    assert "frames only" in clip.problems[0]
    # the options are part of what the clip depends on
    outcome = prepared(tmp_path, replace(NONE_HELD_OUT, missing="previous"))
    assert outcome.made == 1
    folder = read_clip(outcome.clips[0].path)
    assert folder.valid().all() and (folder.mask(LIP_MASKS, 0) == 255).all()
    assert (folder.mask(LIP_MASKS, 33 - first) == folder.mask(LIP_MASKS, 29 - first)).all()


@pytest.mark.parametrize(("frames", "when"), [(5, "after"), (-4, "before"), (2, "")])
def test_a_clip_out_of_sync_is_flagged_with_its_offset(tmp_path: Path, frames: int, when: str) -> None:
    draw_person(tmp_path / "videos", said(seconds=5.0), style=Style(lag=frames / FPS), size=(64, 64))
    (clip,) = prepared(tmp_path, replace(NONE_HELD_OUT, keep_out_of_sync=True)).clips
    assert clip.measures.lag == frames
    if when:
        wanted = f"out of sync: its mouth moves {abs(frames)} frames ({abs(frames) / 16:.2f} s) {when} the sound"
        assert clip.problems == (wanted,)
    else:
        assert clip.problems == ()


LAGS = {"early": -3, "good": 0, "late": 5}  # frames by which the sound of a video comes after the lips


def sound_is_shifted(folder: Path, prepared: Callable[..., Outcome]) -> None:
    """Prepare the videos of `LAGS` and see that their sound is aligned; `prepared` takes fields of `Options`."""
    outcome = prepared()
    assert outcome.left_out == {"video_000": "out of sync by -3 frames", "video_002": "out of sync by +5 frames"}
    listed = (folder / "data/processed/video_path.txt").read_text().split()
    assert listed == [str(by_video(outcome)["good"].path.resolve())]
    outcome = prepared(align=True)
    assert [clip.measures.lag for clip in outcome.clips] == [0, 0, 0] and not outcome.left_out
    for name, lag in LAGS.items():
        clip, video = by_video(outcome)[name], folder / f"videos/{name}.mp4"
        said = [f"aligned: its sound is shifted by {lag:+d} frames ({lag / FPS:+.2f} s)"] if lag else []
        assert (clip.facts["late"], clip.facts["notes"]) == (lag, said)
        # to the sample and to the frame
        made, heard = read_clip(clip.path), read_audio(video, rate=RATE, mono=True).samples[:, 0]
        begin = round((clip.facts["start"] - lag / FPS) * RATE)
        kept = read_audio(made.sound).samples[:, 0]
        assert np.abs(kept - heard[begin : begin + made.frames * RATE // FPS]).max() < 1e-4
        for k in (0, 30, made.frames - 1):
            assert (made.image(k) == read_frame(video, clip.facts["start"] + k / FPS)).all()


def by_video(outcome: Outcome) -> dict[str, Prepared]:
    return {clip.facts["video"].partition(".")[0]: clip for clip in outcome.clips}


def test_sound_is_shifted_by_the_lag_and_what_stays_late_is_left_out(tmp_path: Path) -> None:
    (word,) = said(seconds=5.0)
    for name, lag in LAGS.items():
        draw_person(tmp_path / "videos", [replace(word, name=name)], style=Style(lag=lag / FPS), size=(64, 64))
    sound_is_shifted(tmp_path, lambda **options: prepared(tmp_path, replace(NONE_HELD_OUT, **options)))


def test_a_mouth_that_says_something_else_is_flagged(tmp_path: Path) -> None:
    one, other = said(2, 5.0)
    (tmp_path / "videos").mkdir()
    draw_video(tmp_path / "videos/dubbed.mp4", replace(one, sound=other.sound), usual(), size=(64, 64))
    with pytest.raises(
        LabError, match=r"left out are video_000 \(its mouth does not follow its sound \(r = 0\.\d\d at"
    ):
        prepared(tmp_path)
    (clip,) = prepared(tmp_path, replace(NONE_HELD_OUT, keep_out_of_sync=True)).clips
    assert "its mouth does not follow its sound" in clip.problems[0]


def test_duplicates_and_quiet_clips_are_flagged_and_not_held_out(tmp_path: Path) -> None:
    words = said(4)
    words[2] = replace(words[2], sound=(words[2].sound / 40).astype(np.float32))
    videos = draw_person(tmp_path / "videos", words, size=(64, 64))
    again = tmp_path / "videos/zz_again.mp4"
    again.write_bytes(videos[0].read_bytes())
    sidecar(again).write_bytes(sidecar(videos[0]).read_bytes())
    outcome = prepared(tmp_path, Options(hold_out=1))
    problems = {clip.facts["video"]: " ".join(clip.problems) for clip in outcome.clips}
    assert problems["zz_again.mp4"] == "shows and says the same as video_000"
    assert "quiet" in problems["said_02.mp4"]
    assert problems["said_00.mp4"] == problems["said_01.mp4"] == problems["said_03.mp4"] == ""
    assert [clip.facts["video"] for clip in outcome.held_out] == ["said_03.mp4"]
    report = json.loads((tmp_path / "data/report.json").read_text())
    assert report["flagged"] == ["video_002", "video_004"] and len(report["clips"]) == 5
    assert [clip["name"] for clip in report["clips"] if clip["held_out"]] == ["video_003"]
    with Image.open(tmp_path / "data/contact_sheet.png") as sheet:
        assert sheet.width > 3 * 160


def test_what_is_there_is_kept_and_what_changed_is_made_again(tmp_path: Path) -> None:
    words = said(3)
    videos = draw_person(tmp_path / "videos", words[:2], size=(64, 64))
    assert prepared(tmp_path).made == 2
    before = contents(tmp_path / "data")
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "data/processed").rglob("*.png")}
    assert prepared(tmp_path).made == 0 and contents(tmp_path / "data") == before
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "data/processed").rglob("*.png")} == made
    # a frame that was deleted, and a video that comes before the others
    (tmp_path / "data/processed/video_001/images/frame_0003.png").unlink()
    assert prepared(tmp_path).made == 1 and contents(tmp_path / "data") == before
    draw_person(tmp_path / "videos", [replace(words[2], name="a_first")], size=(64, 64))
    outcome = prepared(tmp_path)
    assert outcome.made == 1
    assert [clip.facts["video"] for clip in outcome.clips] == ["a_first.mp4", "said_00.mp4", "said_01.mp4"]
    assert [clip.name for clip in outcome.clips] == ["video_000", "video_001", "video_002"]
    moved = contents(tmp_path / "data/processed/video_002")
    assert moved == {
        name.removeprefix("processed/video_001/"): data
        for name, data in before.items()
        if name.startswith("processed/video_001/")
    }
    # other landmarks make their clip again, and a video that is gone takes its clip along
    known = read_landmarks(videos[0])
    write_landmarks(videos[0], VideoLandmarks(known.seconds, [*known.faces[:-1], None], known.size))
    videos[1].unlink()
    outcome = prepared(tmp_path)
    assert outcome.made == 1 and len(read_clips(tmp_path / "data/processed/video_path.txt")) == 2
    assert not (tmp_path / "data/processed/video_002").exists()


def test_a_killed_preparation_goes_on_where_it_was(tmp_path: Path) -> None:
    draw_person(tmp_path / "videos", said(4), size=(64, 64))
    words = ["--videos", str(tmp_path / "videos"), "--landmarks", "drawn", "--workers", "1", "--hold-out", "1", "--out"]
    folder = tmp_path / "data/processed"
    command = [sys.executable, "-m", "training.prepare", *words, str(tmp_path / "data")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    # in the middle of the third clip, with two that are whole
    while not (list(folder.glob(".video_002.*/lip_masks/frame_0010.png"))) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    whole = sorted(path.name for path in folder.glob("video_*"))
    assert whole == ["video_000", "video_001"] and list(folder.glob(".video_002.*"))
    assert not (folder / "video_path.txt").exists()
    kept = {path: path.stat().st_mtime_ns for name in whole for path in (folder / name).rglob("*")}
    with redirect_stdout(io.TextIOWrapper(written := io.BytesIO())):
        assert main([*words, str(tmp_path / "data")]) == 0
        assert b"video_003: 2 of 2\n" in written.getvalue()  # and not in a buffer until the process ends
    assert {path: path.stat().st_mtime_ns for name in whole for path in (folder / name).rglob("*")} == kept
    assert not list(folder.glob(".video_*"))
    assert main([*words, str(tmp_path / "uninterrupted")]) == 0
    first, second = contents(tmp_path / "data"), contents(tmp_path / "uninterrupted")
    assert first.keys() == second.keys()
    listings = {"processed/video_path.txt", "processed/held_out_path.txt"}
    assert all(data == second[name] for name, data in first.items() if name not in listings)


def test_two_preparations_of_one_folder_do_not_meet(tmp_path: Path) -> None:
    from wanavatar_lab.locks import locked

    draw_person(tmp_path / "videos", said(), size=(64, 64))
    (tmp_path / "data/processed").mkdir(parents=True)
    with locked(tmp_path / "data/processed/.lock"), pytest.raises(LabError, match="Another process is preparing"):
        prepared(tmp_path)


def test_the_command_line_says_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))
    words = ["--videos", str(tmp_path / "videos"), "--out", str(tmp_path / "data")]
    assert main(words) == 1 and "weights download face-landmarker" in capsys.readouterr().err
    assert main([*words, "--landmarks", "none"]) == 1 and "There is no folder" in capsys.readouterr().err
    (tmp_path / "videos").mkdir()
    assert main([*words, "--landmarks", "none"]) == 1 and "has no files in it" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words, "--dilate-lips", "-1"])
    assert "--dilate-lips is -1.0; it must be 0 to 1" in capsys.readouterr().err
    draw_person(tmp_path / "videos", said(), size=(64, 64))
    (tmp_path / "file").touch()
    assert main([*words[:2], "--out", str(tmp_path / "file/data"), "--landmarks", "drawn"]) == 1
    assert "/file is no folder. Move it away, or set --out to a folder" in capsys.readouterr().err
    sidecar(tmp_path / "videos/said_00.mp4").unlink()
    assert main([*words, "--landmarks", "drawn"]) == 1 and "There are no landmarks at" in capsys.readouterr().err
