"""The synthesisers: exact phoneme times, truth that follows the sound, the same corpus twice. Skipped without them."""

import ctypes.util
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from training.pocket.speech import corpus as corpus_builder
from training.pocket.speech.clips import Corpus
from training.pocket.speech.mouth import relative_loudness, speech_mouth
from training.pocket.speech.sentences import LANGUAGES, Split, sentences
from training.pocket.speech.synthesise import Synthesiser, joined
from training.pocket.speech.utterance import RATE, SpeechToolMissing, Utterance
from training.pocket.speech.visemes import viseme_events
from training.pocket.speech.voices import Delivery, Voice, voices
from training.pocket.world.visemes import FPS
from wanavatar_lab.metrics import best_lag, correlation, loudness

needs_espeak = pytest.mark.skipif(
    ctypes.util.find_library("espeak-ng") is None,
    reason="espeak-ng is not installed: apt-get install -y espeak-ng libespeak-ng1",
)
needs_flite = pytest.mark.skipif(
    shutil.which("flite") is None, reason="flite is not installed: apt-get install -y flite"
)
NAMED = {voice.name: voice for split in ("train", "held_out") for voice in voices(split)}


def speak(text: str, voice: str, language: str = "en", manner: Delivery | None = None) -> Utterance:
    with Synthesiser([NAMED[voice]]) as synthesiser:
        return synthesiser.speak(text, NAMED[voice], language, manner or Delivery())


def level(spoken: Utterance, start: float, end: float) -> float:
    return float(np.sqrt(np.mean(spoken.samples[round(start * RATE) : round(end * RATE)] ** 2)))


@needs_espeak
@pytest.mark.parametrize("voice", ["m1", "f3", "klatt3", "own05"])
def test_espeak_times_are_those_of_the_sound(voice: str) -> None:
    spoken = speak("Mama. Papa.", voice)
    assert [phoneme.start for phoneme in spoken.phonemes[1:]] == [phoneme.end for phoneme in spoken.phonemes[:-1]]
    assert spoken.phonemes[-1].end == pytest.approx(spoken.duration, abs=0.001)
    symbols = "".join(phoneme.symbol for phoneme in spoken.phonemes)
    assert symbols.count("m") == 2 and symbols.count("p") == 2
    vowels = [phoneme for phoneme in spoken.phonemes if phoneme.symbol[:1] in set("ɑɐəʌ")]
    pauses = [phoneme for phoneme in spoken.phonemes if not phoneme.symbol and phoneme.end - phoneme.start > 0.1]
    assert len(vowels) == 4 and pauses
    # half a vowel's length from its edges it is loud; late in a pause nothing is heard
    loudest = max(level(spoken, vowel.start, vowel.end) for vowel in vowels)
    assert all(level(spoken, 0.7 * vowel.start + 0.3 * vowel.end, vowel.end) > 0.2 * loudest for vowel in vowels)
    assert all(level(spoken, pause.end - 0.03, pause.end) < 0.05 * loudest for pause in pauses)


@needs_flite
def test_flite_times_are_those_of_the_sound() -> None:
    spoken = speak("Mama, papa.", "slt")
    events = viseme_events(spoken)
    assert [event.viseme for event in events].count("M") >= 4
    open_ = [event for event in events if event.viseme == "AA"]
    assert min(level(spoken, event.start, event.end) for event in open_) > 0.05
    assert spoken.phonemes[-1].end == pytest.approx(spoken.duration, abs=0.02)


@needs_espeak
@needs_flite
def test_true_mouths_follow_loudness_at_once_in_every_language() -> None:
    generator = random.Random(4)
    cast = [NAMED[name] for name in ("m5", "f3", "klatt3", "own11", "own17", "boris")]
    agreement, lags = [], []
    with Synthesiser([*cast, NAMED["slt"], NAMED["rms"]]) as synthesiser:
        jobs = [(language, generator.choice(cast)) for language in LANGUAGES * 2]
        jobs += [("en", NAMED["slt"]), ("en", NAMED["rms"])]
        for language, voice in jobs:
            texts = generator.sample(sentences(language, "held_out"), 2)
            manner = Delivery(rate=240 if language == "zh" else 170)
            parts = [synthesiser.speak(text, voice, language, manner) for text in texts]
            spoken = joined(parts, generator, pauses=(0.1, 0.6))
            sound = loudness(spoken.samples)
            opening = speech_mouth(viseme_events(spoken), relative_loudness(spoken.samples)).mouth[:, 0].numpy()
            agreement.append(correlation(opening, sound))
            lags.append(best_lag(opening, sound))
    assert np.median(agreement) >= 0.85 and min(agreement) >= 0.7
    assert set(lags) <= {-1, 0, 1}


@needs_espeak
def test_the_same_corpus_is_built_twice(tmp_path: Path) -> None:
    minutes: dict[Split, float] = {"train": 0.3, "held_out": 0.1}
    paths = [corpus_builder.build(tmp_path / name, minutes=minutes, seed=3, only=2) for name in ("a", "b")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    corpus = Corpus(paths[0])
    assert corpus.seconds("train") >= 18 and corpus.seconds("held_out") >= 6
    assert {clip.voice for clip in corpus.clips} == {"m1", "m2", "m5", "f3"}
    assert all(clip.frames >= 81 for clip in corpus.clips)
    assert all(corpus.samples(i).shape == (clip.frames * RATE // FPS,) for i, clip in enumerate(corpus.clips))
    assert "r median" in corpus_builder.summary(paths[0])


@needs_espeak
def test_what_a_synthesiser_cannot_say_is_refused() -> None:
    with pytest.raises(ValueError, match="does not speak 'xx'"):
        speak("Hello.", "m1", "xx")
    with pytest.raises(ValueError, match="no variant 'nobody'"), Synthesiser([Voice("nobody", "espeak")]):
        pass


def test_missing_tools_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: "libespeak-ng-that-is-not-here.so")
    with pytest.raises(SpeechToolMissing, match="apt-get install -y espeak-ng libespeak-ng1"):
        speak("Hello.", "m1")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SpeechToolMissing, match="apt-get install -y flite"):
        speak("Hello.", "slt")
