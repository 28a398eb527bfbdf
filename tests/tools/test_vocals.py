"""Voices without the music under them, by a stand-in of the package that does it."""

from pathlib import Path

import numpy as np
import pytest

from tests.queue_for_tests import QueueUnderTest, eventually, queue_fixture, queue_settings_fixture
from tests.tools.separator import HUM, VOICE, loudness, recording, separator
from wanavatar_lab import jobs, tools
from wanavatar_lab.errors import LabError
from wanavatar_lab.media import Audio, read_audio, write_audio
from wanavatar_lab.requests import RequestError, SeparateVocals
from wanavatar_lab.tools.vocals import MODEL, OVERLAP_SECONDS, PART_SECONDS, RATE

__all__ = ["queue_fixture", "queue_settings_fixture", "separator"]


def test_the_hum_goes_and_the_voice_stays_as_loud(tmp_path: Path, separator: Path) -> None:
    song = recording(tmp_path / "song.wav")
    made = tools.separate_vocals(song, tmp_path / "voice.wav")
    assert (made.audio_rate, made.audio_channels, made.duration) == (RATE, 2, 1.0)
    assert loudness(tmp_path / "voice.wav", VOICE) == pytest.approx(loudness(song, VOICE), rel=0.02)
    assert loudness(tmp_path / "voice.wav", HUM) < 0.01 * loudness(song, HUM)
    assert list((separator.parent / "parts").iterdir()) == []


def test_parts_join_without_a_seam(tmp_path: Path, separator: Path) -> None:
    """The level changes from part to part, and so does what the package makes of each."""
    times = np.arange(round((2 * PART_SECONDS + 5.5) * RATE)) / RATE
    voice = (0.1 + 0.6 * (times > PART_SECONDS) + 0.0) * np.sin(2 * np.pi * VOICE * times)
    write_audio(tmp_path / "long.wav", Audio(voice.astype(np.float32)[:, None], RATE))
    said: list[tuple[int, int]] = []
    tools.separate_vocals(tmp_path / "long.wav", tmp_path / "voice.wav", progress=lambda *step: said.append(step))
    found = read_audio(tmp_path / "voice.wav").samples
    assert said == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert len(found) == len(voice)
    apart = np.abs(found[:, 0] - voice)
    for second in (10.0, PART_SECONDS - OVERLAP_SECONDS / 2, 2 * PART_SECONDS - 1.5 * OVERLAP_SECONDS, 62.0):
        assert apart[round(second * RATE) :][:4410].max() < 0.01, second


@pytest.mark.parametrize("level", [0.0001, 0.0])
def test_silence_has_no_voice(tmp_path: Path, separator: Path, level: float) -> None:
    quiet = recording(tmp_path / "quiet.wav", level)
    with pytest.raises(LabError, match="found no voice in it"):
        tools.separate_vocals(quiet, tmp_path / "voice.wav")
    assert not (tmp_path / "voice.wav").exists()


def test_without_the_extra_it_is_refused_with_the_command(tmp_path: Path) -> None:
    song = recording(tmp_path / "song.wav")
    with pytest.raises(RequestError, match=r"Install it: .venv/bin/uv pip install -e '.\[separate\]'"):
        jobs.submit(SeparateVocals(media=str(song)))
    with pytest.raises(LabError, match="needs the extra `separate`"):
        tools.VocalSeparator()


def test_the_worker_keeps_the_model_and_a_run_is_cancelled_between_parts(
    queue: QueueUnderTest, separator: Path, tmp_path: Path
) -> None:
    song = str(recording(tmp_path / "song.wav"))
    for _ in range(2):
        (made,) = jobs.submit(SeparateVocals(media=song)).wait(60, progress=False).artifacts
        assert made.kind == "audio" and loudness(Path(made.path), HUM) < 0.01
    (separator.parent / "slow").touch()
    job = jobs.submit(SeparateVocals(media=str(recording(tmp_path / "long.wav", seconds=120))))
    eventually(lambda: job.run.status().step == 1)
    job.cancel()
    status = job.wait(60, check=False, progress=False)
    assert status.state == "cancelled" and (status.step or 0) < 5
    assert not (job.run.folder / "audio.wav").exists()
    assert separator.read_text() == f"{MODEL}\n"  # once for the three
