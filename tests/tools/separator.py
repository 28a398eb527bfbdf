"""A stand-in for audio-separator, which has a model to download: a high-pass filter with the same calls."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from wanavatar_lab.media import Audio, read_audio, write_audio

REPOSITORY = Path(__file__).resolve().parents[2]
RATE, VOICE, HUM = 16_000, 400.0, 50.0  # Hz
# As the real one: a part's result is multiplied by the part's peak, and is nothing for silence.
STAND_IN = """
import time
from pathlib import Path
import numpy as np
from wanavatar_lab.media import Audio, read_audio, write_audio

class Separator:
    def __init__(self, model_file_dir, output_dir, **options):
        assert options.pop("log_level") and options == {
            "output_format": "WAV", "output_single_stem": "Vocals", "normalization_threshold": 1.0
        }
        self.folder, self.models = Path(output_dir), Path(model_file_dir)
        self.folder.mkdir(parents=True, exist_ok=True)

    def load_model(self, model_filename):
        self.models.mkdir(parents=True, exist_ok=True)
        with open(self.models / "loaded.txt", "a") as file:
            file.write(model_filename + "\\n")

    def separate(self, path):
        if (self.models / "slow").exists():
            time.sleep(0.5)
        sound = read_audio(path)
        peak = float(np.abs(sound.samples).max())
        bins = np.fft.rfft(sound.samples, axis=0)
        bins[np.fft.rfftfreq(len(sound.samples), 1 / sound.rate) < 200] = 0
        kept = np.fft.irfft(bins, len(sound.samples), axis=0).astype(np.float32) * np.float32(peak)
        name = Path(path).stem + "_(Vocals).wav"
        write_audio(self.folder / name, Audio(kept, sound.rate))
        return [name]
"""


@pytest.fixture
def separator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The stand-in, for this process and those that it starts; returns the list of the models that were loaded."""
    package = tmp_path / "packages" / "audio_separator"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "separator.py").write_text(STAND_IN)
    monkeypatch.syspath_prepend(str(package.parent))
    paths = [str(package.parent), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path / "weights"))
    yield tmp_path / "weights" / "separate" / "loaded.txt"
    for name in [name for name in sys.modules if name.partition(".")[0] == "audio_separator"]:
        del sys.modules[name]


def recording(path: Path, loudness: float = 0.4, seconds: float = 1.0) -> Path:
    """A note as of a voice, over a hum."""
    times = np.arange(round(seconds * RATE)) / RATE
    samples = loudness * (np.sin(2 * np.pi * VOICE * times) + np.sin(2 * np.pi * HUM * times))
    write_audio(path, Audio(samples.astype(np.float32)[:, None], RATE))
    return path


def loudness(path: Path, frequency: float) -> float:
    """The amplitude of a note."""
    sound = read_audio(path, rate=RATE, mono=True)
    bins = np.abs(np.fft.rfft(sound.samples[:, 0])) / len(sound.samples)
    return float(bins[round(frequency * len(sound.samples) / RATE)])
