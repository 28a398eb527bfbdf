"""Sound cut and resampled from file to file, exact to the sample."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tools.clips import ramp, sound, video
from wanavatar_lab import tools
from wanavatar_lab.errors import MediaError
from wanavatar_lab.media import Audio, read_audio, write_audio

RATES = st.sampled_from([8_000, 11_025, 12_345, 16_000, 22_050, 37_799, 44_100, 48_000, 96_001])


@settings(max_examples=40)
@given(
    rate=RATES,
    channels=st.sampled_from([1, 2, 6]),
    count=st.integers(1, 30_000),
    start=st.floats(0, 2),
    duration=st.none() | st.floats(1e-6, 3),
)
def test_a_part_has_the_same_samples(
    rate: int, channels: int, count: int, start: float, duration: float | None
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, out = sound(Path(folder) / "a.wav", count, rate, channels), Path(folder) / "b.wav"
        first = round(start * rate)
        last = count if duration is None else first + max(1, round(duration * rate))
        wanted = ramp(count, channels)[first:last]
        if not len(wanted):
            with pytest.raises(MediaError, match="has no sound after"):
                tools.trim(path, out, start=start, duration=duration)
            assert not out.exists()
            return
        made = tools.trim(path, out, start=start, duration=duration)
        assert (made.audio_rate, made.audio_channels) == (rate, channels)
        np.testing.assert_array_equal(read_audio(out).samples, wanted)


@settings(max_examples=40)
@given(
    rate=RATES,
    wanted=RATES,
    channels=st.sampled_from([1, 2, 6]),
    count=st.integers(1, 20_000),
    mix=st.sampled_from(["keep", "mono", "stereo"]),
)
def test_every_rate_becomes_every_rate(rate: int, wanted: int, channels: int, count: int, mix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, out = sound(Path(folder) / "a.wav", count, rate, channels), Path(folder) / "b.wav"
        made = tools.resample(path, out, rate=wanted, channels=mix)  # type: ignore[arg-type]
        assert (made.audio_rate, made.audio_channels) == (wanted, {"keep": channels, "mono": 1, "stereo": 2}[mix])
        found = read_audio(out)
        assert abs(len(found.samples) - count * wanted / rate) <= 1
        assert np.abs(found.samples).max() <= 1


def test_a_tone_stays_a_tone_and_mono_is_in_both_channels(tmp_path: Path) -> None:
    times = np.arange(44_100) / 44_100
    tone = (0.5 * np.sin(2 * np.pi * 1000 * times)).astype(np.float32)
    write_audio(tmp_path / "a.wav", Audio(tone[:, None], 44_100))
    tools.resample(tmp_path / "a.wav", tmp_path / "b.wav", rate=16_000, channels="stereo")
    found = read_audio(tmp_path / "b.wav").samples
    np.testing.assert_array_equal(found[:, 0], found[:, 1])
    wanted = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(16_000) / 16_000)
    assert np.abs(found[800:-800, 0] - wanted[800:-800]).max() < 0.002


def test_a_part_that_passes_the_end_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = sound(tmp_path / "a.wav", 16_000, 16_000)
    assert tools.trim(path, tmp_path / "b.wav", start=0.75, duration=2.0).duration == 0.25
    assert "a.wav ends 0.25 s after 0.75 s: the part is shorter than the 2 s that were asked for" in caplog.text


def test_the_sound_of_a_video_is_extracted_whole(tmp_path: Path) -> None:
    made = tools.extract_audio(video(tmp_path / "a.mp4", 33, 16, tone=440), tmp_path / "a.wav", metadata={"Tool": "x"})
    assert (made.kind, made.audio_rate, made.audio_channels) == ("audio", 48_000, 1)
    assert made.duration == pytest.approx(33 / 16, abs=1e-4)
    spectrum = np.abs(np.fft.rfft(read_audio(tmp_path / "a.wav").samples[:, 0]))
    assert np.argmax(spectrum) * 16 / 33 == pytest.approx(440, abs=1)


def test_what_has_no_sound_or_is_no_media_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("no sound")
    for path, said in (
        (video(tmp_path / "silent.mp4", 4), "has no sound that can be read"),
        (tmp_path / "empty.wav", "is empty"),
        (tmp_path / "text.wav", "text.wav"),
        (tmp_path / "none.wav", "There is no file"),
    ):
        for tool in (tools.extract_audio, tools.resample, tools.trim, tools.normalize_loudness):
            if path.suffix == ".mp4" and tool is tools.trim:
                continue
            with pytest.raises(MediaError, match=said):
                tool(path, tmp_path / "out.wav")
    assert not (tmp_path / "out.wav").exists()
    assert tools.trim(tmp_path / "silent.mp4", tmp_path / "part.mp4").audio_rate is None
