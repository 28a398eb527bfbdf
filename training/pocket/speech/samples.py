"""Make the bundled speech samples.

    python -m training.pocket.speech.samples --out data/samples

Needs espeak-ng and flite (`apt-get install -y espeak-ng libespeak-ng1 flite`). Voices and sentences are held out from
the training of the pocket models. Texts, voices and licences are listed in `data/samples/README.md`.
"""

import argparse
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from training.pocket.speech.synthesise import Synthesiser, joined
from training.pocket.speech.utterance import RATE
from training.pocket.speech.voices import Delivery, voices
from wanavatar_lab.files import whole_file

_PEAK = 10 ** (-3 / 20)


@dataclass(frozen=True)
class Sample:
    """A sample: file name, voice, texts and delivery."""

    name: str
    voice: str
    language: str
    delivery: Delivery
    texts: tuple[str, ...]


SAMPLES = (
    Sample(
        "english_female",
        "slt",
        "en",
        Delivery(rate=175),
        ("Hello! I am only a picture, but lend me a voice and my mouth will move.",),
    ),
    Sample(
        "english_male",
        "rms",
        "en",
        Delivery(rate=175),
        ("Good morning. Bring me a photograph and some speech, and I will read it out for you.",),
    ),
    Sample(
        "korean",
        "f3",
        "ko",
        Delivery(rate=195, pitch=50, range_=60),
        ("안녕하세요, 저는 말하는 그림입니다.", "목소리를 들려주시면 바로 따라 말할게요."),
    ),
    Sample(
        "chinese",
        "m5",
        "zh",
        Delivery(rate=250, pitch=50, range_=60),
        ("你好，我是一张会说话的图片。", "给我一段声音，我马上开口。"),
    ),
)


def make_samples(folder: Path) -> list[Path]:
    """Write every sample to `folder` as 16 kHz mono wav; returns their paths.

    Raises:
        SpeechToolMissing: espeak-ng or flite is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cast = {voice.name: voice for voice in voices("held_out")}
    made: list[Path] = []
    with Synthesiser([cast[sample.voice] for sample in SAMPLES]) as synthesiser:
        for sample in SAMPLES:
            parts = [
                synthesiser.speak(text, cast[sample.voice], sample.language, sample.delivery) for text in sample.texts
            ]
            sound = joined(parts, random.Random(0), pauses=(0.1, 0.15)).samples
            path = folder / f"{sample.name}.wav"
            with whole_file(path) as temporary:
                soundfile.write(temporary, sound / np.abs(sound).max() * _PEAK, RATE, subtype="PCM_16")
            made.append(path)
    return made


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data/samples"), help="output folder")
    for path in make_samples(parser.parse_args(arguments).out):
        print(f"{path}: {soundfile.info(path).duration:.1f} s, {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
