"""Loudness against the test signals of EBU Tech 3341, and brought to a target."""

from pathlib import Path

import numpy as np
import pytest

from tests.media.samples import mux, numbered
from tests.tools.clips import greys, video
from wanavatar_lab import tools
from wanavatar_lab.errors import MediaError
from wanavatar_lab.media import Audio, probe, read_audio, write_audio

RATE = 48_000


def tones(path: Path, *parts: tuple[float, float], rate: int = RATE, channels: int = 2) -> Path:
    """A tone of 1 kHz: parts of a level in dBFS (peak) and a length in seconds."""
    levels = np.concatenate([np.full(round(seconds * rate), 10 ** (level / 20)) for level, seconds in parts])
    wave = levels * np.sin(2 * np.pi * 1000 * np.arange(len(levels)) / rate)
    write_audio(path, Audio(np.repeat(wave[:, None], channels, axis=1).astype(np.float32), rate))
    return path


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
@pytest.mark.parametrize(
    ("parts", "integrated"),
    [  # cases 1 to 4 of EBU Tech 3341, shortened
        ([(-23.0, 5.0)], -23.0),
        ([(-33.0, 5.0)], -33.0),
        ([(-36.0, 3.0), (-23.0, 15.0), (-36.0, 3.0)], -23.0),
        ([(-72.0, 3.0), (-36.0, 3.0), (-23.0, 15.0), (-36.0, 3.0), (-72.0, 3.0)], -23.0),
    ],
)
def test_the_signals_of_the_standard(
    tmp_path: Path, parts: list[tuple[float, float]], integrated: float, rate: int
) -> None:
    found = tools.measure_loudness(tones(tmp_path / "a.wav", *parts, rate=rate))
    assert found.integrated == pytest.approx(integrated, abs=0.1)
    # a tone that begins at once overshoots between its samples, by 0.3 dB at 8 kHz
    assert found.true_peak == pytest.approx(integrated, abs=0.3)


def test_the_loudness_range_is_that_of_the_standard(tmp_path: Path) -> None:
    """Case 1 of EBU Tech 3342."""
    found = tools.measure_loudness(tones(tmp_path / "a.wav", (-20.0, 20.0), (-30.0, 20.0)))
    assert found.range == pytest.approx(10, abs=1)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_recording_gets_its_target(tmp_path: Path, channels: int) -> None:
    path = tones(tmp_path / "a.wav", (-30.0, 2.0), (-40.0, 2.0), channels=channels)
    made = tools.normalize_loudness(path, tmp_path / "b.wav", loudness=-16.0)
    found = tools.measure_loudness(tmp_path / "b.wav")
    assert found.integrated == pytest.approx(-16.0, abs=0.1) == made.after.integrated
    assert made.gain == pytest.approx(-16.0 - (made.before.integrated or 0), abs=0.01)
    before, after = read_audio(path).samples, read_audio(tmp_path / "b.wav").samples
    assert np.abs(after - before * 10 ** (made.gain / 20)).max() < 1e-4  # one gain for all


def test_a_peak_is_not_lifted_above_its_limit_and_the_miss_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tones(tmp_path / "a.wav", (-40.0, 4.0), (-3.0, 0.02))
    made = tools.normalize_loudness(path, tmp_path / "b.wav", loudness=-14.0, peak=-1.0)
    assert made.gain == pytest.approx(2.0, abs=0.2)
    assert (tools.measure_loudness(tmp_path / "b.wav").true_peak or 0) == pytest.approx(-1.0, abs=0.2)
    assert "misses its target of -14 LUFS by" in caplog.text


def test_the_peak_between_the_samples_counts(tmp_path: Path) -> None:
    """A sine of a quarter of the rate, sampled at 45 degrees, passes its samples by 3 dB."""
    wave = 0.5 * np.sin(2 * np.pi * 0.25 * np.arange(RATE) + np.pi / 4) * np.hanning(RATE)  # or its begin overshoots
    write_audio(tmp_path / "a.wav", Audio(wave.astype(np.float32)[:, None], RATE))
    assert tools.measure_loudness(tmp_path / "a.wav").true_peak == pytest.approx(20 * np.log10(0.5), abs=0.2)
    assert np.abs(wave).max() < 0.36


@pytest.mark.parametrize("parts", [[(-200.0, 2.0)], [(-20.0, 0.3)]])
def test_silence_and_less_than_a_block_have_no_loudness(tmp_path: Path, parts: list[tuple[float, float]]) -> None:
    path = tones(tmp_path / "a.wav", *parts)
    assert tools.measure_loudness(path).integrated is None
    with pytest.raises(MediaError, match=r"has no loudness to measure: it lasts .* s and is silent or shorter"):
        tools.normalize_loudness(path, tmp_path / "b.wav")
    assert not (tmp_path / "b.wav").exists()


def test_a_video_keeps_its_picture(tmp_path: Path) -> None:
    path = video(tmp_path / "a.mp4", 32, tone=1000)
    tools.normalize_loudness(path, tmp_path / "b.mp4", loudness=-30.0)
    assert np.abs(np.array(greys(tmp_path / "b.mp4")) - greys(path)).max() < 2
    assert tools.measure_loudness(tmp_path / "b.mp4").integrated == pytest.approx(-30.0, abs=0.3)


def test_surround_sound_gets_its_target_in_the_stereo_of_a_video(tmp_path: Path) -> None:
    wave = 0.2 * np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE)
    everywhere = np.repeat(wave[:, None], 6, axis=1).astype(np.float32)
    frames = [numbered(number) for number in range(32)]
    path = mux(tmp_path / "a.mp4", video="libx264", audio="aac", frames=frames, samples=everywhere)
    made = tools.normalize_loudness(path, tmp_path / "b.mp4", loudness=-23.0)
    assert made.after.integrated == pytest.approx(-23.0, abs=0.1)
    assert tools.measure_loudness(tmp_path / "b.mp4").integrated == pytest.approx(-23.0, abs=0.3)
    tools.normalize_loudness(path, tmp_path / "b.wav", loudness=-23.0)
    assert tools.measure_loudness(tmp_path / "b.wav").integrated == pytest.approx(-23.0, abs=0.1)
    assert probe(tmp_path / "b.wav").audio_channels == 6
