"""A recording's outline, and the part of it that is chosen."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ui import made_runs
from wanavatar_lab.errors import MediaError
from wanavatar_lab.ui.waveform import SHORTEST, SOON, Waveform


@pytest.fixture(scope="module")
def wave(tmp_path_factory: pytest.TempPathFactory) -> Waveform:
    folder = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANAVATAR_SERVER_ROOT", str(folder))
        return Waveform(made_runs.sound(folder / "voice.wav", seconds=4.0))


def test_the_whole_is_chosen_at_first(wave: Waveform) -> None:
    wave.choose(0, None)
    assert (wave.path, wave.duration, len(wave.peaks)) == ("voice.wav", 4.0, 400)
    assert (wave.audio_start, wave.audio_duration) == (0.0, None)


def test_a_part_is_what_the_request_takes(wave: Waveform) -> None:
    wave.choose(1.5, 2.0)
    assert (wave.start, wave.end, wave.audio_start, wave.audio_duration) == (1.5, 3.5, 1.5, 2.0)
    wave.choose(3.0, 9.0)
    assert (wave.audio_start, wave.audio_duration) == (3.0, None)


@given(st.floats(-10, 10), st.floats(-10, 10))
def test_the_part_always_lies_within(wave: Waveform, start: float, end: float) -> None:
    wave.set_state({"start": start, "end": end})  # as the page sets it
    assert 0 <= wave.start <= wave.duration - SHORTEST + 1e-9
    assert wave.start < wave.end <= wave.duration


def test_a_long_one_is_outlined_while_others_are_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path))
    path = made_runs.sound(tmp_path / "long.wav", SOON + 10)

    async def show() -> Waveform:
        wave = Waveform(path)
        assert (wave.peaks, wave.duration) == ([], SOON + 10)
        wave.choose(3, 4)
        async with asyncio.timeout(20):
            while not wave.peaks:
                await asyncio.sleep(0.01)
        return wave

    wave = asyncio.run(show())
    assert (len(wave.peaks), wave.audio_start, wave.audio_duration) == (400, 3.0, 4.0)


def test_a_file_without_sound_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path))
    with pytest.raises(MediaError, match="has no sound"):
        Waveform(made_runs.picture(tmp_path / "face.png", side=32))


def test_a_clip_has_a_waveform_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path))
    wave = Waveform(made_runs.clip(tmp_path / "talking.mp4", 1.0, side=32))
    assert wave.duration == pytest.approx(1.0, abs=0.01)
