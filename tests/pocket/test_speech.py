"""The speech of the toy world: phonemes to mouths, mouths that follow the sound, and the corpus file."""

import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.pocket.speech import sentences as said
from training.pocket.speech.clips import SAMPLES_PER_FRAME, Clip, Corpus, Recorded, write_corpus
from training.pocket.speech.mouth import relative_loudness, speech_mouth
from training.pocket.speech.ogg import with_serial
from training.pocket.speech.phonemes import BREATH, VISEME_OF, parse
from training.pocket.speech.utterance import RATE, Phoneme, Utterance
from training.pocket.speech.visemes import viseme_events
from training.pocket.speech.voices import delivery, own_voices, voices
from training.pocket.world.pose import MOUTH
from training.pocket.world.visemes import NAMES, Sound
from wanavatar_lab.errors import LabError
from wanavatar_lab.metrics import best_lag, correlation, loudness

SAMPLES = Path(__file__).parents[2] / "data" / "samples"
OPEN, PRESS = MOUTH.index("open"), MOUTH.index("press")
# what each sound of a hand-made utterance is: how loud, and whether it is silent until it bursts at its mark
VOICED = {"": 0.0, "m": 0.1, "a": 0.5, "i": 0.3, "p": 0.0, "f": 0.05}


def utterance(*parts: tuple[str, float]) -> Utterance:
    """Sounds of these phonemes and durations (seconds), each a buzz as loud as such a sound is."""
    at = 0.0
    phonemes, sound = [], []
    for symbol, seconds in parts:
        phonemes.append(Phoneme(symbol, at, at + seconds))
        time = np.arange(round(seconds * RATE)) / RATE
        sound.append(VOICED[symbol] * np.sign(np.sin(2 * np.pi * 140 * time)))
        at += seconds
    return Utterance(np.concatenate(sound).astype(np.float32), tuple(phonemes))


def opening(spoken: Utterance) -> tuple[np.ndarray, np.ndarray]:
    """How far the mouth is open, and its lips pressed, per frame."""
    frames = -(-len(spoken.samples) // SAMPLES_PER_FRAME)
    mouth = speech_mouth(viseme_events(spoken), relative_loudness(spoken.samples, frames=frames)).mouth.numpy()
    return mouth[:, OPEN], mouth[:, PRESS]


def test_what_is_held_out_is_in_no_other_part() -> None:
    for language in said.LANGUAGES:
        train, held_out = said.sentences(language, "train"), said.sentences(language, "held_out")
        assert len(held_out) >= 6 and len(train) >= 24
        assert not set(train) & set(held_out)
        assert len(set(said.sentences(language))) == len(train) + len(held_out)
    heard, unheard = ({voice.name for voice in voices(split)} for split in ("train", "held_out"))
    assert not heard & unheard
    assert {voice.engine for voice in voices("held_out")} == {"espeak", "flite"}


def test_own_voices_are_the_same_every_time_and_differ_from_each_other() -> None:
    assert own_voices() == own_voices()
    assert len({voice.definition for voice in own_voices()}) == len(own_voices())


def test_drills_and_numbers_come_from_the_seed() -> None:
    for language in said.LANGUAGES:
        first, second = (said.drill(language, random.Random(5)) for _ in range(2))
        assert first == second and len(first) > 4
    assert said.numbers(random.Random(1)) != said.numbers(random.Random(2))
    manner = delivery("en", random.Random(0))
    assert 110 <= manner.rate <= 260 and 10 <= manner.pitch <= 95


def test_an_unknown_language_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'xx'.*en, ko, zh"):
        said.sentences("xx")


@pytest.mark.parametrize(
    ("symbol", "visemes"),
    [
        ("m", ["M"]),
        ("aɪ", ["AA", "IY"]),
        ("oʊ", ["OH", "UW"]),
        ("ɑː", ["AA"]),
        ("tʃ", ["SH"]),
        ("tɕh", ["SH"]),
        ("ts", ["S"]),
        ("ph", ["M"]),
        ("h", [BREATH]),
        ("ɯᵝ", ["UW"]),
        ("ʲ", ["IY"]),
        ("sʲ", ["S"]),
        ("onɡ", ["OH", "S", "K"]),
        ("ɔ̃", ["OH"]),
        ("", []),
    ],
)
def test_ipa_symbols_name_what_the_lips_do(symbol: str, visemes: list[str]) -> None:
    assert parse(symbol) == visemes


@given(st.text(max_size=8))
def test_any_symbol_gives_only_visemes_that_can_be_drawn(symbol: str) -> None:
    assert set(parse(symbol)) <= {*NAMES, BREATH}
    assert set(VISEME_OF.values()) <= set(NAMES)


def test_lips_meet_for_m_and_part_for_a() -> None:
    spoken = utterance(("", 0.25), ("m", 0.25), ("a", 0.25), ("m", 0.25), ("a", 0.25), ("", 0.5))
    open_, press = opening(spoken)
    assert open_[9:11].min() > 0.6 and open_[17:19].min() > 0.6
    assert open_[5:7].max() < 0.12 and open_[13:15].max() < 0.12
    assert press[5:7].min() > 0.3 and press[13:15].min() > 0.3


def test_lips_shut_in_the_silence_before_a_stop_bursts() -> None:
    # a synthesiser marks p where it bursts; the pause before belongs to the vowel by its marks, not by its sound
    spoken = utterance(("a", 0.4), ("", 0.1), ("p", 0.02), ("a", 0.4))
    late = Utterance(spoken.samples, (Phoneme("a", 0, 0.5), Phoneme("p", 0.5, 0.52), Phoneme("a", 0.52, 0.92)))
    closure = [event for event in viseme_events(late) if event.viseme == "M"]
    assert closure[0].start == pytest.approx(0.4, abs=0.02)
    assert closure[-1].end == pytest.approx(0.515, abs=0.02)


def test_events_do_not_overlap_and_are_louder_where_the_sound_is() -> None:
    events = viseme_events(utterance(("", 0.2), ("i", 0.3), ("m", 0.1), ("a", 0.4), ("f", 0.1), ("", 0.3)))
    assert all(before.end <= after.start + 1e-9 for before, after in itertools.pairwise(events))
    loud = {event.viseme: event.loudness for event in events}
    assert loud["AA"] > loud["IY"] > loud["M"] > loud["F"] > 0
    assert {event.viseme for event in events} == {"IY", "M", "AA", "F"}


def test_silence_keeps_the_mouth_shut() -> None:
    open_, _ = opening(utterance(("", 3.0)))
    assert np.all(open_ == 0)
    open_, _ = opening(utterance(("a", 0.5), ("", 1.0), ("a", 0.5)))
    assert np.all(open_[9:23] < 0.01) and open_[2:6].min() > 0.6


def test_a_window_of_a_mouth_is_a_part_of_the_whole() -> None:
    spoken = utterance(("a", 0.3), ("m", 0.2), ("i", 0.5), ("", 0.2), ("f", 0.2), ("a", 0.35))
    events, relative = viseme_events(spoken), relative_loudness(spoken.samples)
    whole = speech_mouth(events, relative).mouth
    torch.testing.assert_close(speech_mouth(events, relative[9:20], first_frame=9).mouth, whole[9:20])


def recorded(frames: int, seed: int) -> Recorded:
    """A clip of `frames` frames of a tone that comes and goes."""
    noise = np.random.default_rng(seed)
    time = np.arange(frames * SAMPLES_PER_FRAME) / RATE
    samples = (0.4 * np.sin(2 * np.pi * 220 * time) * (np.sin(2 * np.pi * time) > 0)).astype(np.float32)
    clip = Clip("train" if seed else "held_out", "sentences", "ko", "m1", "espeak", 175, 50, f"엄마 {seed}", frames)
    events = [Sound(0.125, 0.25, "M", 0.5), Sound(0.25, 0.75, "AA", 1.0)]
    mouth = noise.random((frames, len(MOUTH))).astype(np.float32)
    return Recorded(clip, samples, events, mouth, noise.integers(0, 12, frames), loudness(samples))


def test_a_corpus_gives_back_what_was_written(tmp_path: Path) -> None:
    clips = [recorded(40, 0), recorded(25, 1)]
    write_corpus(tmp_path / "speech.safetensors", clips)
    corpus = Corpus(tmp_path)
    assert [each.clip for each in clips] == corpus.clips
    assert corpus.indices("train") == [1] and corpus.seconds("held_out") == 2.5
    for i, each in enumerate(clips):
        assert corpus.events(i) == each.events
        np.testing.assert_allclose(corpus.mouth(i), each.mouth, atol=1e-3)
        np.testing.assert_array_equal(corpus.visemes(i), each.visemes)
        sound = corpus.samples(i)
        assert len(sound) == len(each.samples)
        assert best_lag(loudness(sound), each.loudness) == 0
        assert correlation(loudness(sound), corpus.loudness(i)) > 0.99
    sound, mouth = corpus.window(1, 20, 10)
    assert sound.shape == (10_000,) and mouth.shape == (10, len(MOUTH))
    assert np.all(sound[5000:] == 0) and np.all(mouth[5:] == 0) and np.any(mouth[:5] != 0)
    with pytest.raises(ValueError, match=r"frame 25.*0 to 24"):
        corpus.window(1, 25, 10)


def test_the_same_corpus_is_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_corpus(tmp_path / name, [recorded(20, 1), recorded(20, 2)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_missing_or_damaged_corpus_is_said(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"python -m training\.pocket\.speech\.corpus"):
        Corpus(tmp_path)
    (tmp_path / "speech.safetensors").write_bytes(b"\x10" * 100)
    with pytest.raises(LabError, match="damaged"):
        Corpus(tmp_path)


def test_streams_with_another_serial_still_decode(tmp_path: Path) -> None:
    path = tmp_path / "tone.ogg"
    soundfile.write(path, np.sin(np.arange(40_000) / 9), RATE, subtype="VORBIS")
    before, _ = soundfile.read(path)
    stream = with_serial(path.read_bytes(), 123456)
    path.write_bytes(stream)
    after, _ = soundfile.read(path)
    np.testing.assert_array_equal(before, after)
    assert with_serial(with_serial(stream, 5), 123456) == stream
    with pytest.raises(ValueError, match="cut short"):
        with_serial(stream + b"Ogg", 1)


@given(st.binary(min_size=1, max_size=200))
def test_what_is_no_ogg_stream_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no Ogg page"):
        with_serial(data, 0)


@pytest.mark.parametrize("name", ["english_female", "english_male", "korean", "chinese"])
def test_shipped_samples_are_short_clear_speech(name: str) -> None:
    path = SAMPLES / f"{name}.wav"
    sound, rate = soundfile.read(path)
    assert rate == RATE and sound.ndim == 1
    assert 4 <= len(sound) / rate <= 6.5 and path.stat().st_size <= 200_000
    level = loudness(sound)
    assert 0.5 < np.abs(sound).max() < 1 and (level > 0.1 * level.max()).mean() > 0.5
    assert f"`{name}.wav`" in (SAMPLES / "README.md").read_text(encoding="utf-8")
