"""What recordings go through: nothing moves in time, everything comes from the seed."""

import numpy as np
import pytest
import torch
from torch import Tensor

from training.pocket.speech.augment import CONDITIONS, at_speed, augment, degraded
from training.pocket.speech.draws import Draws
from training.pocket.speech.utterance import RATE
from training.pocket.speech.vocoder import Throat, pitch_track, revoice
from wanavatar_lab.metrics import best_lag, correlation, decibels, loudness

SECONDS = 3


def speech(clips: int, *, hertz: float = 120.0, seconds: float = SECONDS) -> Tensor:
    """Syllables of a buzz through two resonances, a little different in every clip, [clips, T]."""
    generator = np.random.default_rng(1)
    time = np.arange(round(seconds * RATE)) / RATE
    spectrum = np.fft.rfftfreq(len(time), 1 / RATE)
    shape = sum(1 / (1 + ((spectrum - formant) / 120) ** 2) for formant in (600.0, 1500.0)) + 0.01
    made = []
    for _ in range(clips):
        pulses = np.diff(np.floor(np.cumsum(hertz / RATE * (1 + 0.1 * np.sin(2 * np.pi * time)))), prepend=0)
        buzz = np.fft.irfft(np.fft.rfft(pulses) * shape, n=len(time))
        knots = np.arange(0, seconds + 1, 0.14)
        syllables = np.interp(time, knots, generator.uniform(-0.6, 1, len(knots))).clip(0, 1)
        made.append(buzz / np.abs(buzz).max() * syllables)
    return torch.from_numpy(np.stack(made)).float()


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_augmented_speech_comes_from_the_seed_and_is_sound() -> None:
    clean = speech(6)
    kept = clean.clone()
    first, second, other = (augment(clean, seeded(seed)) for seed in (7, 7, 8))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert torch.equal(clean, kept)
    assert first.shape == clean.shape and first.dtype == torch.float32
    assert bool(torch.isfinite(first).all()) and float(first.abs().max()) <= 1


def test_augmented_speech_stays_where_it_was() -> None:
    clean = speech(24)
    heard = augment(clean, seeded(3))
    before, after = ([decibels(loudness(clip), floor=-70) for clip in batch] for batch in (clean, heard))
    lags = [best_lag(b, a) for a, b in zip(before, after, strict=True)]
    agreement = [correlation(a, b) for a, b in zip(before, after, strict=True)]
    assert np.mean(np.abs(lags) <= 1) > 0.95 and np.median(lags) == 0
    assert np.median(agreement) > 0.7


def test_levels_are_those_of_recordings() -> None:
    peaks = decibels(augment(speech(32, seconds=1), seeded(5)).abs().amax(dim=1))
    assert peaks.min() >= -36 and peaks.max() <= 0 and peaks.std() > 4


def test_silence_becomes_faint_noise_and_one_clip_is_a_batch() -> None:
    clean = speech(16, seconds=1)
    clean[:12] = 0
    peaks = augment(clean, seeded(0)).abs().amax(dim=1)
    assert float(peaks[:12].median()) > 0 and float(peaks[:12].max()) < 0.06
    assert augment(clean[:1], seeded(0)).shape == clean[:1].shape


@pytest.mark.parametrize("condition", list(CONDITIONS))
def test_each_condition_keeps_time_and_loudness(condition: str) -> None:
    clean = speech(4)
    heard = degraded(clean, condition, seed=2)
    assert heard.shape == clean.shape and torch.equal(heard, degraded(clean, condition, seed=2))
    if condition not in {"clean", "quiet"}:
        assert float((heard / heard.std() - clean / clean.std()).abs().max()) > 0.1
    for a, b in zip(clean, heard, strict=True):
        assert best_lag(loudness(b), loudness(a)) == 0
        assert correlation(loudness(a), loudness(b)) > 0.85


def test_an_unknown_condition_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'underwater'.*noisy"):
        degraded(speech(1), "underwater")


def test_another_throat_has_another_pitch_and_the_same_loudness() -> None:
    clean = speech(2, hertz=120)
    one = torch.ones(2)
    throat = Throat(one, one, 1.5 * one, one, 0.05 * one, torch.zeros(2, dtype=torch.bool))
    made = revoice(clean, throat, Draws(2, clean.device, seeded(0)))

    def pitch(audio: Tensor) -> float:
        hertz, voiced = pitch_track(audio)
        return float(hertz[voiced > 0.9].median())

    assert pitch(clean) == pytest.approx(120, rel=0.1)
    assert pitch(made) == pytest.approx(180, rel=0.12)
    assert correlation(loudness(clean[0]), loudness(made[0])) > 0.98


def test_formants_move_by_the_factor_asked_for() -> None:
    clean = speech(1)
    one = torch.ones(1)
    kept = torch.ones(1, dtype=torch.bool)

    def centroid(factor: float) -> float:
        throat = Throat(factor * one, one, one, one, 0 * one, kept)
        power = torch.fft.rfft(revoice(clean, throat, Draws(1, clean.device, seeded(0)))).abs().square()[0]
        return float((power * torch.arange(len(power))).sum() / power.sum())

    assert centroid(0.85) < centroid(1.0) < centroid(1.2)


def test_faster_is_shorter_and_higher() -> None:
    time = torch.arange(RATE) / RATE
    faster = at_speed(torch.sin(2 * torch.pi * 400 * time)[None], 1.25)
    assert faster.shape == (1, 12_800)
    assert int(torch.fft.rfft(faster[0]).abs().argmax()) * RATE / 12_800 == pytest.approx(500, abs=2)
    assert float(faster.abs().max()) == pytest.approx(1, abs=0.02)
    slower = at_speed(torch.sin(2 * torch.pi * 400 * time)[None], 0.8)
    assert slower.shape == (1, 20_000)
    with pytest.raises(ValueError, match="speed of 3"):
        at_speed(faster, 3)
