"""Clips from videos of every kind: frames in step with their sound, whatever the frame rate; refusals in words."""

import json
import math
import shutil
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from av.video.reformatter import ColorPrimaries, Colorspace, ColorTrc
from numpy.typing import NDArray

from tests.media.samples import clicks, mux, number_in, numbered, onsets
from training.prepare.clip_folder import FPS, RATE, read_clip, read_clips
from training.prepare.clips import SHEET, Options
from training.prepare.prepare import Outcome, prepare
from wanavatar_lab.errors import LabError
from wanavatar_lab.media import probe, read_audio
from wanavatar_lab.metrics.landmarks import NoLandmarks

# Twice a second and a little off the frames, so that speech seems to go on.
CLICKS = [0.53 + 0.47 * k for k in range(8)]


def quietly(line: str) -> None:
    """Hear what is said, and say nothing."""


def prepared(tmp_path: Path, hold_out: int = 0) -> Outcome:
    return prepare(tmp_path / "videos", tmp_path / "data", NoLandmarks(), Options(hold_out=hold_out), quietly)


def video(
    folder: Path,
    name: str,
    times: Sequence[int],
    fps: int,
    *,
    seconds: float = 4.5,
    start: float = 0.0,
    clicked: Sequence[float] = CLICKS,
) -> Path:
    """A video whose frames show their number, shown at `times` in 1/fps s, with clicks."""
    folder.mkdir(parents=True, exist_ok=True)
    return mux(
        folder / name,
        video="libx264",
        audio="pcm_s16le",
        sample_format="s16",
        frames=[numbered(k) for k in range(len(times))],
        times=list(times),
        fps=fps,
        samples=clicks(48_000, seconds, list(clicked)),
        audio_start=start,
    )


def test_an_hdr_video_gives_clips_of_sdr_and_the_report_says_so(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    white = np.full((64, 96, 3), round(65535 * 0.75), np.uint16)  # reference white of HLG
    mux(
        tmp_path / "videos/phone.mov",
        video="libx265",
        audio="pcm_s16le",
        sample_format="s16",
        pixels="yuv420p10le",
        frames=[white] * 72,
        tags=(ColorTrc.ARIB_STD_B67, ColorPrimaries.BT2020, Colorspace.BT2020),
        video_options={"x265-params": "log-level=none", "preset": "ultrafast"},
        samples=clicks(48_000, 4.5, CLICKS),
    )
    lines: list[str] = []
    (clip,) = prepare(tmp_path / "videos", tmp_path / "data", NoLandmarks(), Options(hold_out=0), lines.append).clips
    assert read_clip(clip.path).image(3).min() >= 235
    assert any(line.startswith("video_000") and "HDR (HLG) mapped to SDR" in line for line in lines)
    report = json.loads((tmp_path / "data/report.json").read_text())
    assert [each["hdr"] for each in report["clips"]] == ["HLG"]


def irregular(seconds: float) -> list[int]:
    """Times in 1/100 s at which frames of a variable rate are shown."""
    generator = np.random.default_rng(1)
    times = np.cumsum(generator.integers(2, 12, 400))
    return [0, *times[times < 100 * seconds].tolist()]


@pytest.mark.parametrize(
    ("times", "fps"),
    [
        (list(range(72)), 16),
        (list(range(112)), 25),
        (list(range(135)), 30),
        (irregular(4.5), 100),
    ],
    ids=["16", "25", "30", "variable"],
)
def test_frames_are_in_step_with_their_sound(tmp_path: Path, times: list[int], fps: int) -> None:
    video(tmp_path / "videos", "clicks.mkv", times, fps)
    (clip,) = prepared(tmp_path).clips
    folder = read_clip(clip.path)
    assert (folder.width, folder.height, folder.fps) == (96, 32, 16)
    start = float(clip.facts["start"])
    shown = [times[number_in(folder.image(k))] / fps for k in range(folder.frames)]
    until = {a / fps: b / fps for a, b in pairwise(times)}
    for k, time in enumerate(shown):
        # the nearest frame, and of a variable rate the one that is shown
        early, late = time - (start + k / FPS), start + k / FPS - (until.get(time, math.inf) if fps == 100 else time)
        assert max(early, late) <= 0.5 / FPS + 1e-6
    sound = read_audio(folder.sound)
    assert (sound.rate, sound.channels, len(sound.samples)) == (RATE, 1, folder.frames * RATE // FPS)
    heard = onsets(sound.samples, RATE)
    expected = [time - start for time in CLICKS if 0 <= time - start < folder.frames / FPS]
    assert len(heard) == len(expected) >= 6
    np.testing.assert_allclose(heard, expected, atol=0.001)
    movie = probe(folder.path / "sub_clip.mp4")
    assert (movie.frames, movie.fps) == (folder.frames, FPS) and movie.audio_rate


def test_sound_that_begins_after_the_picture_stays_where_it_is(tmp_path: Path) -> None:
    video(tmp_path / "videos", "late.mkv", range(96), 16, start=1.0)
    (clip,) = prepared(tmp_path).clips
    heard = onsets(read_audio(clip.path / "audio.wav").samples, RATE)
    start = float(clip.facts["start"])
    np.testing.assert_allclose(heard[0] + start, CLICKS[0] + 1.0, atol=0.002)
    assert number_in(read_clip(clip.path).image(5)) == round(start * 16) + 5


def test_odd_sizes_keep_every_pixel(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    frames = [np.pad(numbered(k), ((0, 1), (0, 1), (0, 0)), mode="edge") for k in range(64)]
    mux(
        tmp_path / "videos/odd.mkv",
        video="ffv1",
        pixels="bgr0",
        audio="pcm_s16le",
        sample_format="s16",
        frames=frames,
        samples=clicks(16_000, 4.0, CLICKS),
        rate=16_000,
    )
    (clip,) = prepared(tmp_path).clips
    folder = read_clip(clip.path)
    assert (folder.width, folder.height) == (97, 33)
    first = round(float(clip.facts["start"]) * 16)
    assert (folder.image(3) == frames[first + 3]).all(), "lossless in, lossless out"
    assert folder.mask("face_masks", 0).shape == (33, 97)


def test_what_gives_no_clip_is_refused_in_words_and_the_rest_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    video(folder, "good.mkv", range(72), 16)
    numbers = [numbered(k) for k in range(72)]
    mux(folder / "mute.mp4", video="libx264", frames=numbers)
    mux(folder / "silent.mp4", video="libx264", audio="aac", frames=numbers, samples=np.zeros((216_000, 1), np.float32))
    mux(folder / "short.mp4", video="libx264", audio="aac", frames=numbers[:30])
    mux(folder / "voice.wav", audio="pcm_s16le", sample_format="s16", samples=clicks(48_000, 4.5, CLICKS))
    (folder / "cut.mkv").write_bytes((folder / "good.mkv").read_bytes()[:9000])
    (folder / "notes.txt").write_text("The good one is good.mkv.")
    outcome = prepared(tmp_path)
    assert [clip.facts["video"] for clip in outcome.clips] == ["good.mkv"]
    why = {each.video: each.why for each in outcome.refused}
    assert why.keys() == {"mute.mp4", "silent.mp4", "short.mp4", "voice.wav", "cut.mkv", "notes.txt"}
    assert "no sound" in why["mute.mp4"] and "nobody speaks" in why["silent.mp4"]
    assert "3 s or more" in why["short.mp4"] and "audio file" in why["voice.wav"] and "3 s or more" in why["cut.mkv"]
    (folder / "good.mkv").unlink()
    with pytest.raises(LabError, match=r"None of the 5 videos .* mute\.mp4: it has no sound"):
        prepared(tmp_path)


def test_a_picture_that_ends_before_its_sound_shortens_the_clip(tmp_path: Path) -> None:
    video(tmp_path / "videos", "ends.mkv", range(60), 16)
    (clip,) = prepared(tmp_path).clips
    start = round(float(clip.facts["start"]) * 16)
    assert clip.facts["frames"] == 60 - start == read_clip(clip.path).frames
    assert len(read_audio(clip.path / "audio.wav").samples) == (60 - start) * 1000
    video(tmp_path / "videos", "ends.mkv", range(40), 16)
    with pytest.raises(LabError, match=r"its picture ends at 2\.50 s, which leaves"):
        prepared(tmp_path)
    assert not [path for path in (tmp_path / "data/processed").iterdir() if path.is_dir()], "nothing half made is left"


def test_without_landmarks_all_frames_are_invalid(tmp_path: Path) -> None:
    video(tmp_path / "videos", "a.mkv", range(72), 16)
    (clip,) = prepared(tmp_path).clips
    folder = read_clip(clip.path)
    assert not folder.valid().any() and not folder.mask("lip_masks", 0).any()
    assert clip.problems == ("no face was found",)
    assert (folder.path / SHEET).is_file()


def test_lists_and_validation_are_written(tmp_path: Path) -> None:
    video(tmp_path / "videos", "a.mkv", range(72), 16)
    video(tmp_path / "videos", "b.mkv", range(72), 16, clicked=[0.3, 0.5, 1.3, 2.2, 2.4, 3.2, 4.0])
    outcome = prepared(tmp_path, hold_out=1)
    data = tmp_path / "data"
    (trained,) = read_clips(data / "processed/video_path.txt")
    (held_out,) = read_clips(data / "processed/held_out_path.txt")
    assert {trained.path.name, held_out.path.name} == {"video_000", "video_001"}
    assert [clip.name for clip in outcome.held_out] == [held_out.path.name]
    voice: NDArray[np.float32] = read_audio(data / "validation/audio.wav").samples
    assert (voice == read_audio(held_out.sound).samples).all()
    assert probe(data / "validation/reference.png").kind == "picture"
    # a video under another name is not in both
    shutil.copy(tmp_path / "videos/b.mkv", tmp_path / "videos/c.mkv")
    outcome = prepared(tmp_path, hold_out=1)
    assert [clip.name for clip in outcome.held_out] == ["video_002"] and outcome.left_out.keys() == {"video_001"}
    assert [clip.path.name for clip in read_clips(data / "processed/video_path.txt")] == ["video_000"]
    (tmp_path / "videos/c.mkv").unlink()
    prepared(tmp_path, hold_out=1)
    # a folder that was made elsewhere is not touched
    shutil.rmtree(data / "processed/video_000")
    (data / "processed/video_000").mkdir()
    with pytest.raises(LabError, match="was not made by this preparation"):
        prepared(tmp_path)
    with pytest.raises(LabError, match="none to train on"):
        (data / "processed/video_000").rmdir()
        prepared(tmp_path, hold_out=2)


def test_captions_go_with_their_videos_and_what_others_put_there_is_not_removed(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    video(folder, "a.mkv", range(72), 16)
    (folder / "a.txt").write_text(" A woman\n talks. \n")
    outcome = prepared(tmp_path)
    (clip,) = outcome.clips
    assert not outcome.refused and (clip.path / "caption.txt").read_text() == "A woman talks.\n"
    (folder / "a.txt").write_text("A woman sings.")
    outcome = prepared(tmp_path)
    assert outcome.made == 1 and (clip.path / "caption.txt").read_text() == "A woman sings.\n"
    # in other letters, and beside another that fits better
    (folder / "a.txt").rename(folder / "A.TXT")
    assert prepared(tmp_path).made == 0
    (folder / "a.Txt").write_text("Someone else.")
    outcome = prepared(tmp_path)
    assert (clip.path / "caption.txt").read_text() == "Someone else.\n"
    assert [each.video for each in outcome.refused] == ["A.TXT"] and "so it is not used" in outcome.refused[0].why
    (folder / "a.Txt").unlink()
    (folder / "A.TXT").rename(folder / "a.txt")
    prepared(tmp_path)
    (clip.path / "notes.md").write_text("mine")
    assert prepared(tmp_path).made == 0
    (folder / "a.txt").unlink()
    with pytest.raises(LabError, match=r"video_000 would be removed, .* and has notes\.md"):
        prepared(tmp_path)
    assert (clip.path / "notes.md").is_file()
    (folder / "a.txt").write_bytes(b"\xff\xfe\x00")
    (clip.path / "notes.md").unlink()
    with pytest.raises(LabError, match="is not UTF-8"):
        prepared(tmp_path)


def test_videos_in_folders_are_found_and_what_was_prepared_from_them_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    for day in ("monday", "tuesday"):
        video(folder / "spring" / day, "walk.mkv", range(72), 16)
        (folder / "spring" / day / "WALK.TXT").write_text(f"A walk on {day}.")
    (folder / "spring/again").symlink_to(folder)
    (folder / ".hidden").mkdir()
    (folder / ".hidden/walk.mkv").write_bytes(b"no video")
    (folder / "spring/readme.TXT").write_text("Of this year.")
    outcomes = [prepare(folder, folder / "data", NoLandmarks(), Options(hold_out=0), quietly) for _ in range(2)]
    for outcome in outcomes:
        names = [clip.facts["video"] for clip in outcome.clips]
        assert names == ["spring/monday/walk.mkv", "spring/tuesday/walk.mkv"]
        assert [clip.facts["caption"] for clip in outcome.clips] == ["A walk on monday.", "A walk on tuesday."]
        assert [each.video for each in outcome.refused] == ["spring/readme.TXT"]
    assert outcomes[1].made == 0
