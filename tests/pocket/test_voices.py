"""The lips of pocket's speech to video follow pocket's text to speech."""

import json
from pathlib import Path

import pytest

from training.pocket.judge.reading import WEIGHTS, Reader
from training.pocket.talking.sources import Pipeline
from training.pocket.talking.voices import lip_r, spoken
from wanavatar_lab.requests import TextToSpeech
from wanavatar_lab.requests.text_to_speech import VOICES
from wanavatar_lab.stages.espeak import TABLE

FOLDER = Path(__file__).parents[2] / "weights"


def test_every_speaker_has_a_voice() -> None:
    table = json.loads((FOLDER / "pocket" / "text_to_speech" / TABLE).read_text(encoding="utf-8"))
    assert table["voices"].keys() == VOICES.keys() and table["languages"].keys() == {"en", "ko", "zh"}
    assert len({(each["variant"], each["pitch"]) for each in table["voices"].values()}) == len(VOICES)


@pytest.mark.slow  # a segment of the trained networks; test_shipped_models.py has one of a recorded voice
def test_the_lips_follow_a_voice_made_of_text() -> None:
    table = json.loads((FOLDER / "pocket" / "text_to_speech" / TABLE).read_text(encoding="utf-8"))
    speaker = table["voices"][TextToSpeech.model_fields["voice"].default]
    made = spoken("Hello there, how are you today?", "en", speaker, table)
    assert 20 < made.frames < 60
    assert lip_r(made, 3, Pipeline(FOLDER), Reader.load(WEIGHTS)) > 0.6
