"""Measure how well the toy S2V's lips follow espeak-ng's voices, as the stage text_to_speech makes them.

    python -m training.pocket.talking.voices                                       # the speakers that ship
    python -m training.pocket.talking.voices --variants f2,f4,m3 --paces 130,160   # others, at words per minute

Every voice says held-out sentences in English, Korean and Chinese. Prints Pearson's r of the opening of the mouth, read
from the frames, with the loudness of the voice: the median for each language and of all, and the lowest.
"""

import argparse
import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from training.pocket.judge.reading import WEIGHTS, Reader
from training.pocket.speech.clips import SAMPLES_PER_FRAME
from training.pocket.speech.sentences import sentences
from training.pocket.speech.utterance import RATE
from training.pocket.talking.sources import Pipeline
from training.pocket.talking.spoken import Spoken
from training.pocket.world.pose import MOUTH
from wanavatar_lab import media, metrics
from wanavatar_lab.profiles import PROFILES
from wanavatar_lab.requests import TextToSpeech
from wanavatar_lab.requests.text_to_speech import VOICES
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.stages.espeak import TABLE, Espeak
from wanavatar_lab.stages.text_to_speech import finished

LANGUAGES = ("en", "ko", "zh")


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", default="", help="of espeak-ng, comma-separated; default: the speakers that ship")
    parser.add_argument("--paces", default="160", help="words per minute, with --variants")
    parser.add_argument("--pitch", type=int, default=50, help="0 to 99, with --variants")
    parser.add_argument("--sentences", type=int, default=2, help="of each language")
    parser.add_argument("--weights", type=Path, default=Path("weights"), help="weights folder")
    arguments = parser.parse_args(argv)
    place = PROFILES["pocket"].weights(TextToSpeech.stage, arguments.weights)
    table = json.loads((place / TABLE).read_text(encoding="utf-8"))
    speakers = {name: table["voices"][name] for name in VOICES}
    if arguments.variants:
        speakers = {
            f"{variant} {pace}": {"variant": variant, "pitch": arguments.pitch, "words_per_minute": int(pace)}
            for variant, pace in itertools.product(arguments.variants.split(","), arguments.paces.split(","))
        }
    pipeline, reader = Pipeline(arguments.weights), Reader.load(WEIGHTS)
    print(f"{'speaker':<14}" + "".join(f"{language:>7}" for language in (*LANGUAGES, "all", "least")))
    for name, speaker in speakers.items():
        found = {
            language: [
                lip_r(spoken(sentence, language, speaker, table), number, pipeline, reader)
                for number, sentence in enumerate(sentences(language, "held_out")[: arguments.sentences])
            ]
            for language in LANGUAGES
        }
        every = [*itertools.chain(*found.values())]
        row = [*(np.median(each) for each in found.values()), np.median(every), min(every)]
        print(f"{name:<14}" + "".join(f"{value:7.2f}" for value in row), flush=True)


def spoken(text: str, language: str, speaker: dict[str, Any], table: dict[str, Any]) -> Spoken:
    """A sentence as the stage speaks it, at 16 kHz, in whole frames.

    Args:
        speaker: its entry in a table of voices.
        table: whose languages are used.
    """
    request = TextToSpeech(profile="pocket", text=text, language=language)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / TABLE).write_text(json.dumps({**table, "voices": {request.voice: speaker}}), encoding="utf-8")
        samples, rate, _ = Espeak(folder).speak(request, StageContext(folder, 0))
        media.write_audio(folder / "voice.wav", finished(samples, rate))
        sound = media.read_audio(folder / "voice.wav", rate=RATE, mono=True).samples[:, 0]
    sound = np.pad(sound, (0, -len(sound) % SAMPLES_PER_FRAME))
    mouth = np.zeros((len(sound) // SAMPLES_PER_FRAME, len(MOUTH)), np.float32)  # unknown, and not compared with
    return Spoken(text, str(speaker["variant"]), sound, sound, mouth)


def lip_r(spoken: Spoken, seed: int, pipeline: Pipeline, reader: Reader) -> float:
    """Pearson's r of the lips of held-out avatar number `seed` with the loudness of what it says."""
    made = pipeline.talk(spoken, seed)
    heard = spoken.sound[made.start_frame * SAMPLES_PER_FRAME :]
    return metrics.lip_sync(reader.opening(made.frames), heard).r


if __name__ == "__main__":
    main()
