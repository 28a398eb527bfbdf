"""Voices without the music under them, by a stand-in of the package that does it: it takes the low notes away."""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.ui.looking import alerts, named, text
from wanavatar_lab.media import Audio, read_audio, write_audio
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.ui import vocals
from wanavatar_lab.ui.form import Form
from wanavatar_lab.ui.language import language

RATE, VOICE, HUM = 16_000, 400.0, 50.0  # Hz

STAND_IN = """
from pathlib import Path
import numpy as np
from wanavatar_lab.media import Audio, read_audio, write_audio

class Separator:
    def __init__(self, model_file_dir, output_dir, output_format, output_single_stem):
        assert output_format == "WAV" and output_single_stem == "Vocals"
        self.folder, self.models = Path(output_dir), Path(model_file_dir)

    def load_model(self, model_filename):
        self.models.mkdir(parents=True, exist_ok=True)
        with open(self.models / "loaded.txt", "a") as file:
            file.write(model_filename + "\\n")

    def separate(self, path):
        sound = read_audio(path)
        if not np.abs(sound.samples).max() > 0.01:
            return []
        bins = np.fft.rfft(sound.samples, axis=0)
        bins[np.fft.rfftfreq(len(sound.samples), 1 / sound.rate) < 200] = 0
        kept = np.fft.irfft(bins, len(sound.samples), axis=0).astype(np.float32)
        write_audio(self.folder / "recording_(Vocals).wav", Audio(kept, sound.rate))
        return ["recording_(Vocals).wav"]
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path


@pytest.fixture
def separator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in, found by this process and by those that it starts; returns where its model lies."""
    package = tmp_path / "packages" / "audio_separator"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "separator.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(package.parent))
    paths = [str(package.parent), str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    return tmp_path / "weights" / "separate" / "loaded.txt"


def recording(path: Path, loudness: float = 0.4) -> Path:
    """A note as of a voice, over a hum."""
    seconds = np.arange(RATE) / RATE
    samples = loudness * (np.sin(2 * np.pi * VOICE * seconds) + np.sin(2 * np.pi * HUM * seconds))
    write_audio(path, Audio(samples.astype(np.float32)[:, None], RATE))
    return path


def loudness(path: Path, frequency: float) -> float:
    sound = read_audio(path, rate=RATE, mono=True)
    bins = np.abs(np.fft.rfft(sound.samples[:, 0])) / len(sound.samples)
    return float(bins[round(frequency * len(sound.samples) / RATE)])


def form(voice: Path | None = None) -> Form:
    return Form(SpeechToVideo, profile="pocket", audio=str(voice) if voice else None)


def test_without_the_extra_it_says_what_to_install() -> None:
    made = form()
    assert vocals.INSTALL not in text(made)  # most voices need no separation
    named(made, "Separate the voice").click()
    assert f"To separate a voice from music, install the extra: {vocals.INSTALL}" in text(made)
    language.code = "zh"
    assert "请先安装" in text(made)


def test_the_voice_becomes_what_is_chosen(place: Path, separator: Path) -> None:
    song = recording(place / "song.wav")
    made = form(song)
    assert vocals.INSTALL not in text(made)
    button = named(made, "Separate the voice")
    button.click()
    voice = Path(made.controls["audio"].value)
    assert voice.parent == place / "data" / "uploads" and voice.name.startswith("song-voice-")
    assert loudness(voice, VOICE) == pytest.approx(loudness(song, VOICE), rel=0.1)
    assert loudness(voice, HUM) < 0.01 * loudness(song, HUM)
    assert (button.description, button.disabled) == ("Separate the voice", False)
    assert separator.read_text() == f"{vocals.MODEL}\n"
    again = form(song)
    named(again, "Separate the voice").click()
    assert again.controls["audio"].value == str(voice)
    assert separator.read_text() == f"{vocals.MODEL}\n"  # nothing was done twice
    assert sorted(path.name for path in voice.parent.iterdir()) == [voice.name]


@pytest.mark.parametrize(("loud", "words"), [(0.001, "found no voice in it"), (None, "nothing.wav")])
def test_what_goes_wrong_stands_at_the_field(place: Path, separator: Path, loud: float | None, words: str) -> None:
    path = recording(place / "quiet.wav", loud) if loud is not None else place / "nothing.wav"
    made = form(path)
    named(made, "Separate the voice").click()
    assert words in alerts(made)
    assert made.controls["audio"].value == str(path)


def test_nothing_happens_where_nothing_is_chosen(separator: Path) -> None:
    made = form()
    before = alerts(made)
    named(made, "Separate the voice").click()
    assert alerts(made) == before and not separator.exists()
