"""Frames, parts and rows of videos, from file to file: the right frames at the right times, with their sound."""

import tempfile
import tracemalloc
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.media.samples import clicks, mux, number_in, numbered, onsets
from tests.tools.clips import SIZE, frame, greys, sound, video
from wanavatar_lab import tools
from wanavatar_lab.errors import Cancelled, MediaError, cancellable
from wanavatar_lab.media import Audio, VideoWriter, probe, read_audio, read_frames, read_metadata, write_audio

NEAR = 2.0  # levels of grey that H.264 may change in a plain frame


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds and a bit, whose frame k has the grey 4 k."""
    return video(tmp_path_factory.mktemp("clips") / "clip.mp4", 50, 16, tone=440)


@pytest.mark.parametrize(("number", "grey"), [(0, 0), (1, 4), (49, 196), (-1, 196), (-50, 0)])
def test_a_frame_by_its_number(clip: Path, tmp_path: Path, number: int, grey: int) -> None:
    made = tools.extract_frame(clip, tmp_path / "f.png", frame=number, metadata={"Tool": "x"})
    assert (made.kind, made.width, made.height) == ("picture", SIZE, SIZE)
    assert np.asarray(Image.open(tmp_path / "f.png")).mean() == pytest.approx(grey, abs=NEAR)
    assert read_metadata(tmp_path / "f.png")["Tool"] == "x"


def test_a_frame_far_from_the_end_takes_the_memory_of_one(tmp_path: Path) -> None:
    first, *others = [Image.new("RGBA", (256, 256), (grey, grey, grey, 255)) for grey in range(100)]
    first.save(tmp_path / "long.webp", save_all=True, append_images=others, lossless=True, duration=40)
    tracemalloc.start()
    try:
        tools.extract_frame(tmp_path / "long.webp", tmp_path / "f.png", frame=-100)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40 * 3 * 256 * 256
    assert np.asarray(Image.open(tmp_path / "f.png")).max() == 0


def test_a_frame_by_its_time(clip: Path, tmp_path: Path) -> None:
    tools.extract_frame(clip, tmp_path / "f.png", time=1.03)
    assert np.asarray(Image.open(tmp_path / "f.png")).mean() == pytest.approx(4 * 16, abs=NEAR)


@pytest.mark.parametrize("number", [50, -51])
def test_a_frame_that_is_not_there_is_refused(clip: Path, tmp_path: Path, number: int) -> None:
    with pytest.raises(MediaError, match=f"has 50 frames and no frame {number}. Give -50 to 49"):
        tools.extract_frame(clip, tmp_path / "f.png", frame=number)
    assert not (tmp_path / "f.png").exists()


@settings(max_examples=8)
@example(start=0.25, duration=None, rate=Fraction(30_000, 1001))  # 33 frames last 52,852.8 samples
@given(
    start=st.floats(0, 3.5),
    duration=st.none() | st.floats(1e-6, 4),
    rate=st.sampled_from([Fraction(16), Fraction(25), Fraction(30_000, 1001)]),
)
def test_a_part_of_a_video_has_the_nearest_frames(start: float, duration: float | None, rate: Fraction) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, out, count = video(Path(folder) / "a.mp4", 40, rate, tone=440, step=6), Path(folder) / "b.mp4", 40
        place = start * rate
        if place > count - 0.01:  # the time of the end is rounded in files
            with suppress(MediaError) if place < count + 0.01 else pytest.raises(MediaError, match="no frame at"):
                tools.trim(path, out, start=start, duration=duration)
            return
        tools.trim(path, out, start=start, duration=duration)
        found = np.array(greys(out)) / 6
        assert abs(found[0] - min(place, count - 1)) < 0.5 + NEAR / 6
        assert np.abs(np.diff(found) - 1).max(initial=0.0) < 2 * NEAR / 6 or len(found) == 1
        wanted = count - round(found[0])
        if duration is not None:
            wanted = min(wanted, max(1, round(Fraction(duration) * rate)))
        assert len(found) == wanted
        info = probe(out)
        assert info.fps == pytest.approx(float(rate), rel=1e-3)
        heard = read_audio(out)
        assert heard.seconds == pytest.approx(float(len(found) / rate), abs=0.001)


def test_a_camera_that_was_slower_than_it_says_loses_nothing(tmp_path: Path) -> None:
    """In the dark a camera takes 15 of the 30 frames per second that its file states."""
    frames = [frame(4 * number) for number in range(30)]
    path = mux(tmp_path / "dark.mkv", video="libx264", frames=frames, times=[2 * k for k in range(30)], fps=30)
    info = probe(path)
    assert info.frames == 30 and info.fps == pytest.approx(15, rel=0.03)
    part = tools.trim(path, tmp_path / "part.mp4", start=1.0)
    assert part.duration == pytest.approx(1.0, abs=0.1)
    found = greys(tmp_path / "part.mp4")
    assert (found[0], found[-1]) == pytest.approx((60, 116), abs=NEAR)


@pytest.mark.parametrize(("suffix", "codec", "voice"), [("mp4", "libx264", "aac"), ("webm", "libvpx-vp9", "libopus")])
def test_a_recording_that_stands_still_and_then_moves_keeps_its_frames(
    tmp_path: Path, suffix: str, codec: str, voice: str
) -> None:
    """As of a screen: five frames in as many seconds, then 30 in each, with a click where these begin."""
    times = [0, 30, 60, 90, 120, *range(150, 210)]
    frames, path, out = [numbered(k) for k in range(65)], tmp_path / f"screen.{suffix}", tmp_path / "out.mp4"
    mux(path, video=codec, audio=voice, frames=frames, times=times, fps=30, samples=clicks(48_000, 7.0, [5.0]))
    info = probe(path)
    assert info.frames == 65 and [info.fps, info.steady_fps] == pytest.approx([65 / 7, 30], abs=0.01)
    works = tools.trim, tools.normalize_loudness, lambda path, out: tools.concatenate([path, path], out)
    for work in works:
        work(path, out)
        made, sound = list(map(number_in, read_frames(out))), read_audio(out)
        assert set(made) == set(range(65))
        assert made[149:153] == [4, 5, 6, 7] and onsets(sound.samples, sound.rate)[0] == pytest.approx(5.0, abs=0.01)
    tools.extract_frame(path, tmp_path / "f.png", time=4.9)
    assert number_in(np.asarray(Image.open(tmp_path / "f.png"))) == 4
    tools.interpolate_frames(path, out, fps=15, method="blend")
    with pytest.raises(MediaError, match=r"has 9\.28571 frames per second, and 9 are fewer"):
        tools.interpolate_frames(path, out, fps=9)


def test_a_camera_whose_rate_changes_loses_at_most_a_frame(tmp_path: Path) -> None:
    """Of a phone: 24 frames per second in the dark and 30 in the light."""
    times = np.cumsum([0, *[3750] * 72, *[3000] * 90, *[3750] * 71]).tolist()
    frames = [numbered(k) for k in range(len(times))]
    path = mux(tmp_path / "phone.mp4", video="libx264", frames=frames, times=times, fps=90_000)
    tools.trim(path, tmp_path / "part.mp4")
    assert len(set(map(number_in, read_frames(tmp_path / "part.mp4")))) >= len(times) - 1


@pytest.mark.parametrize("begin", [0, 17])
@pytest.mark.parametrize("tremble", [0, 5, 8])
@pytest.mark.parametrize(("suffix", "codec", "voice"), [("mp4", "libx264", "aac"), ("webm", "libvpx", "libopus")])
def test_a_clock_that_trembles_is_no_faster_rate(
    tmp_path: Path, suffix: str, codec: str, voice: str, tremble: int, begin: int
) -> None:
    """As of a webcam: 29.97 frames per second in whole milliseconds, each some off, and begun with the sound or later.

    By the middle of two steps later, the nearest frames would be every other one twice.
    """
    count, rate = 90, Fraction(30_000, 1001)
    off = np.random.default_rng(3).normal(0, tremble, count).clip(-16, 16)
    off[0] = 0
    times = np.unique(np.rint(begin + np.arange(count) * 1000 / float(rate) + off).astype(int)).tolist()
    assert len(times) == count
    path, frames = tmp_path / f"webcam.{suffix}", [numbered(k) for k in range(count)]
    sound = clicks(48_000, 3.1, [2.0])
    mux(path, video=codec, audio=voice, frames=frames, times=times, fps=1000, samples=sound)
    info = probe(path)
    assert info.frames == count and [info.fps, info.steady_fps] == pytest.approx([float(rate)] * 2, rel=0.02)
    fps = tools.trim(path, tmp_path / "out.mp4").fps or 0
    made, sound = list(map(number_in, read_frames(tmp_path / "out.mp4"))), read_audio(tmp_path / "out.mp4").samples
    assert abs(len(made) - count) <= 1 and len(set(made)) >= count - 3
    late = [place / fps - times[number] / 1000 for place, number in enumerate(made)]
    assert max(map(abs, late)) < 1.5 / float(rate)
    assert onsets(sound, 48_000)[0] == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_an_animation_is_worked_on_as_a_video(tmp_path: Path, suffix: str) -> None:
    first, *rest = [Image.fromarray(numbered(k)) for k in range(10)]
    path, out = tmp_path / f"a.{suffix}", tmp_path / "b.mp4"
    first.save(path, save_all=True, append_images=rest, duration=100, lossless=True)
    tools.trim(path, out, start=0.5)
    assert list(map(number_in, read_frames(out))) == [5, 6, 7, 8, 9]
    assert tools.concatenate([path, out], tmp_path / "c.mp4").frames == 15
    assert tools.interpolate_frames(path, out, fps=20).duration == 1.0


def test_a_picture_that_begins_after_its_sound_loses_nothing(tmp_path: Path) -> None:
    frames = [frame(8 * number) for number in range(25)]
    silence = np.zeros((96_000, 1), np.float32)
    options: dict[str, Any] = {"video": "libx264", "audio": "aac", "frames": frames, "samples": silence}
    path = mux(tmp_path / "late.mp4", times=list(range(25, 50)), fps=25, **options)
    info = probe(path)
    assert (info.frames, info.fps, info.picture_seconds) == (25, 25.0, 2.0)
    part = tools.trim(path, tmp_path / "part.mp4")
    assert (part.frames, part.duration) == (50, 2.0)
    tools.trim(path, tmp_path / "part.mp4", start=1.6)
    assert greys(tmp_path / "part.mp4") == pytest.approx(range(120, 200, 8), abs=NEAR)
    assert tools.interpolate_frames(path, tmp_path / "more.mp4", fps=50, method="blend").duration == 2.0


def test_a_part_hears_what_it_shows(tmp_path: Path) -> None:
    """A voice that begins at one second begins a quarter of a second after a cut at 0.75 s."""
    path = tmp_path / "c.mp4"
    tools.concatenate([video(tmp_path / "a.mp4", 16), video(tmp_path / "b.mp4", 16, tone=500)], path)
    tools.trim(path, tmp_path / "d.mp4", start=0.75, duration=1.0)
    heard = np.abs(read_audio(tmp_path / "d.mp4").samples[:, 0])
    begins = np.argmax(heard > 0.1) / 48_000
    assert begins == pytest.approx(0.25, abs=0.01)


def test_videos_in_a_row_keep_their_frames_and_sounds_in_sync(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = [
        video(tmp_path / "a.mp4", 10, 16, tone=400, step=5),
        video(tmp_path / "b.mp4", 7, 16, step=5),  # silent
        video(tmp_path / "c.mp4", 25, 25, tone=800, step=5, size=(128, 64), rate=44_100),
    ]
    made = tools.concatenate(parts, tmp_path / "all.mp4")
    assert (made.width, made.height, made.fps, made.frames) == (SIZE, SIZE, 16.0, 10 + 7 + 16)
    assert "b.mp4 has no sound; its part is silent" in caplog.text
    assert "c.mp4 has 128×64 pixels and is fitted into 64×64" in caplog.text
    assert "c.mp4 has 25 frames per second and is shown at 16" in caplog.text
    frames = list(read_frames(tmp_path / "all.mp4"))
    assert [frame.mean() for frame in frames[:17]] == pytest.approx([*range(0, 50, 5), *range(0, 35, 5)], abs=NEAR)
    assert frames[-1][:16].mean() < 8 and frames[-1][20:44].mean() == pytest.approx(24 * 5, abs=8)  # bars above
    heard = read_audio(tmp_path / "all.mp4").samples[:, 0]
    second = 48_000 // 16
    for first, last, tone in ((1, 9, 400), (11, 16, 0), (18, 32, 800)):
        piece = heard[first * second : last * second]
        spectrum = np.abs(np.fft.rfft(piece))
        found = np.argmax(spectrum) * 48_000 / len(piece) if np.abs(piece).max() > 0.02 else 0
        assert found == pytest.approx(tone, abs=3)


@pytest.mark.parametrize(("seconds", "said"), [(1.04, ""), (1.5, "a.mp4 has 0.50 s of sound behind its last frame")])
def test_no_frame_is_held_between_videos_whose_sound_is_longer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, seconds: float, said: str
) -> None:
    """The sound of a phone's recording ends a moment after its picture."""
    frames, samples = [frame(8 * number) for number in range(16)], np.zeros((round(seconds * 48_000), 1), np.float32)
    path = mux(tmp_path / "a.mp4", video="libx264", audio="aac", frames=frames, fps=16, samples=samples)
    made = tools.concatenate([path, path], tmp_path / "b.mp4")
    assert (made.frames, made.duration) == (32, 2.0)
    assert greys(tmp_path / "b.mp4") == pytest.approx([*range(0, 128, 8)] * 2, abs=NEAR)
    assert said in caplog.text and bool(said) == bool(caplog.text)
    caplog.clear()
    assert tools.trim(path, tmp_path / "c.mp4", duration=0.5).duration == 0.5 and not caplog.text
    assert tools.trim(path, tmp_path / "c.mp4", start=0.5).frames == 8
    assert said in caplog.text and bool(said) == bool(caplog.text)


def test_recordings_in_a_row(tmp_path: Path) -> None:
    parts = [sound(tmp_path / "a.wav", 1000, 16_000, 2), sound(tmp_path / "b.wav", 3000, 48_000)]
    made = tools.concatenate(parts, tmp_path / "all.wav")
    assert (made.audio_rate, made.audio_channels) == (16_000, 2)
    assert len(read_audio(tmp_path / "all.wav").samples) == 2000
    np.testing.assert_array_equal(read_audio(tmp_path / "all.wav").samples[:1000], read_audio(parts[0]).samples)


@pytest.mark.parametrize("channels", [1, 2, 6, 8])
def test_a_recording_behind_surround_sound_is_heard_from_left_and_right(tmp_path: Path, channels: int) -> None:
    parts = [sound(tmp_path / "a.wav", 1000, 16_000, 3), sound(tmp_path / "b.wav", 1000, 16_000, channels)]
    tools.concatenate(parts, tmp_path / "all.wav")
    stereo = tools.resample(parts[1], tmp_path / "stereo.wav", rate=16_000, channels="stereo")
    heard = read_audio(tmp_path / "all.wav").samples
    assert heard.shape == (2000, 3) and stereo.audio_channels == 2
    np.testing.assert_array_equal(heard[1000:, :2], read_audio(tmp_path / "stereo.wav").samples)
    assert not heard[1000:, 2].any()


def test_stereo_of_one_inverted_channel_is_heard_behind_mono(tmp_path: Path) -> None:
    tone = (0.3 * np.sin(np.arange(4800) / 20)).astype(np.float32)[:, None]
    for kind in ("wav", "mp4"):
        parts = [tmp_path / f"{name}.{kind}" for name in ("mono", "inverted")]
        for part, samples in zip(parts, (tone, np.hstack([tone, -tone])), strict=True):
            if kind == "wav":
                write_audio(part, Audio(samples, 48_000))
            else:
                with VideoWriter(part, fps=10, audio=Audio(samples, 48_000)) as writer:
                    writer.write(frame(0))
        tools.concatenate(parts, tmp_path / f"all.{kind}")
        heard = read_audio(tmp_path / f"all.{kind}").samples
        assert heard.shape[1] == 1
        loudness = [float(np.abs(half).max()) for half in (heard[:4800], heard[4800:])]
        assert loudness == pytest.approx([0.3, 0.3], rel=0.2)


def test_sound_and_video_do_not_mix(tmp_path: Path, clip: Path) -> None:
    with pytest.raises(
        MediaError, match=r"Only recordings or only videos can be joined: a\.wav is audio, clip\.mp4 is"
    ):
        tools.concatenate([sound(tmp_path / "a.wav", 1000, 16_000), clip], tmp_path / "all.wav")
    with pytest.raises(MediaError, match="nothing to concatenate"):
        tools.concatenate([], tmp_path / "all.wav")


def test_a_cancelled_work_leaves_nothing(tmp_path: Path, clip: Path) -> None:
    def cancelled() -> None:
        raise Cancelled

    for work in (tools.trim, tools.extract_frame, tools.interpolate_frames):
        with cancellable(cancelled), pytest.raises(Cancelled):
            work(clip, tmp_path / ("f.png" if work is tools.extract_frame else "out.mp4"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("writing", [False, True])
@pytest.mark.parametrize("work", [tools.extract_audio, tools.trim, tools.resample, tools.normalize_loudness])
def test_work_on_sound_is_cancelled_while_it_is_read_and_written(tmp_path: Path, work: Any, writing: bool) -> None:
    source, folder = sound(tmp_path / "a.wav", 200_000, 16_000), tmp_path / "out"
    folder.mkdir()

    def look() -> None:
        if bool(list(folder.iterdir())) == writing:
            raise Cancelled

    with cancellable(look), pytest.raises(Cancelled):
        work(source, folder / "b.wav")
    assert list(folder.iterdir()) == []


def test_a_frame_held_for_long_sound_is_cancelled(tmp_path: Path) -> None:
    silence = np.zeros((48_000 * 4, 1), np.float32)
    path = mux(tmp_path / "a.mp4", video="libx264", audio="aac", frames=[frame(0)], fps=1, samples=silence)
    done = 0

    def progress(*_: int) -> None:
        nonlocal done
        done += 1

    def look() -> None:
        if done:
            raise Cancelled

    with cancellable(look), pytest.raises(Cancelled):
        tools.interpolate_frames(path, tmp_path / "b.mp4", fps=1, progress=progress)
    assert list(tmp_path.iterdir()) == [path]
