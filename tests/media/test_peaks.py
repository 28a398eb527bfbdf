"""The outline of a recording."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanavatar_lab.errors import MediaError
from wanavatar_lab.media import Audio, read_peaks, write_audio


def written(folder: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    write_audio(folder / "sound.wav", Audio(samples.astype(np.float32), rate))
    return folder / "sound.wav"


@given(seconds=st.floats(0.001, 3.0), count=st.integers(1, 500), channels=st.integers(1, 2))
def test_parts_are_equal_and_hold_the_loudest(
    tmp_path_factory: pytest.TempPathFactory, seconds: float, count: int, channels: int
) -> None:
    samples = np.random.default_rng(1).uniform(-0.9, 0.9, (max(1, round(seconds * 16_000)), channels))
    peaks = read_peaks(written(tmp_path_factory.mktemp("p"), samples), count)
    assert peaks.duration == pytest.approx(len(samples) / 16_000)
    assert 1 <= len(peaks.levels) <= count
    assert max(peaks.levels) == pytest.approx(np.abs(samples).max(), abs=2e-3)
    assert all(0 <= level <= 1 for level in peaks.levels)


def test_a_click_is_where_it_was(tmp_path: Path) -> None:
    samples = np.zeros((32_000, 1))
    samples[24_000] = -0.8
    levels = read_peaks(written(tmp_path, samples), 100).levels
    assert levels.index(max(levels)) == 75
    assert sum(level > 0.01 for level in levels) == 1


def test_what_has_no_sound_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound")
    with pytest.raises(MediaError):
        read_peaks(tmp_path / "text.wav")
    with pytest.raises(MediaError, match="ask for 1 or more"):
        read_peaks(written(tmp_path, np.zeros((100, 1))), 0)
