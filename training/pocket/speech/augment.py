"""Audio augmentation: voice conversion, room reverb, noise, microphone, codec and level.

`augment` is for training: seeded random augmentation of a batch on any device. It keeps the timing, so that the clean
speech's mouth track still matches. `degraded` applies one named condition, deterministically, for evaluation.
`at_speed` changes the pace, and thereby the times.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from training.pocket.speech import noises, rooms
from training.pocket.speech.draws import Draws
from training.pocket.speech.utterance import RATE
from training.pocket.speech.vocoder import Throat, revoice


def augment(audio: Tensor, generator: torch.Generator) -> Tensor:
    """Augment clean speech to resemble recordings: float32 [B, T] at 16 kHz in and out, within -1..1.

    For a sixth of the clips only the level changes. The others get a random choice of voice conversion, room reverb,
    microphone response, noise of several kinds from far below the speech to 3 dB below it, overdrive, band limits, a
    codec and a DC offset. The level is -35 to -3 dBFS at the peak. Pure silence becomes faint noise or stays silent.

    Args:
        audio: clean speech; the level does not matter.
        generator: on the CPU or on the device of `audio`; the same state gives the same result.
    """
    draws = Draws(len(audio), audio.device, generator)
    speech, silent = _levelled(audio)
    speech = _some(draws, 0.55, speech, lambda it: revoice(it, Throat.drawn(draws), draws))
    speech = _some(draws, 0.7, speech, lambda it: rooms.coloured(it, draws, decibels=4.0))
    drift = draws.wander(audio.shape[-1], 2 + audio.shape[-1] // (2 * RATE))
    speech = _some(draws, 0.4, speech, lambda it: it * torch.pow(10.0, 2.0 * drift / 20))
    speech = _some(draws, 0.3, speech, lambda it: rooms.reverberated(it, draws, seconds=(0.1, 0.35), direct=(2, 15)))
    speech = _some(draws, 0.15, speech, lambda it: rooms.reverberated(it, draws, seconds=(0.3, 0.9), direct=(0, 9)))
    speech = torch.where(silent[:, None], torch.zeros_like(speech), _levelled(speech)[0])
    mixed = speech + _noise(draws, speech)
    mixed = _some(draws, 0.1, mixed, lambda it: rooms.clipped(it, draws.decibels(2, 12), draws.chance(0.5)))
    limits = draws.uniform(30, 350), torch.exp2(draws.uniform(11.7, 12.97))
    mixed = _some(draws, 0.35, mixed, lambda it: rooms.band_limited(it, *limits))
    mixed = _some(draws, 0.2, mixed, lambda it: rooms.perceptually_coded(it, draws.uniform(0.3, 1.5)))
    mixed = _some(draws, 0.1, mixed, lambda it: rooms.rounded(it, draws.uniform(5, 8)))
    mixed = _some(draws, 1 / 6, mixed, lambda _: _levelled(audio)[0])
    mixed = _at_peak(mixed, draws.decibels(-35, -3), draws.decibels(-55, -30), silent)
    mixed = _some(draws, 0.1, mixed, lambda it: it + draws.uniform(-0.02, 0.02)[:, None])
    # quantise to 16 bits, as in the audio files that users supply
    return (mixed.clamp(-1, 1) * 32767).round() / 32767


def at_speed(audio: Tensor, factor: float) -> Tensor:
    """Play `factor` times as fast, which shifts the pitch as well: [B, T] -> [B, T / factor].

    Times t become t / factor: divide the event times by `factor` and recompute the loudness.

    Raises:
        ValueError: the factor is not between 0.5 and 2.
    """
    if not 0.5 <= factor <= 2:
        raise ValueError(f"A speed of {factor} is not between 0.5 and 2; resample before the corpus is built instead.")
    length = audio.shape[-1]
    wanted = round(length / factor)
    spectrum = torch.fft.rfft(audio)
    kept = wanted // 2 + 1
    resampled = torch.zeros(*audio.shape[:-1], kept, dtype=spectrum.dtype, device=audio.device)
    resampled[..., : min(kept, spectrum.shape[-1])] = spectrum[..., :kept]
    return torch.fft.irfft(resampled, n=wanted) * (wanted / length)


def degraded(audio: Tensor, condition: str, seed: int = 0) -> Tensor:
    """Apply one of `CONDITIONS`, for evaluation: float32 [B, T] at 16 kHz in and out, timing unchanged.

    Raises:
        ValueError: the condition is unknown.
    """
    if condition not in CONDITIONS:
        raise ValueError(f"Unknown condition {condition!r}; choose from {', '.join(CONDITIONS)}.")
    draws = Draws(len(audio), audio.device, torch.Generator().manual_seed(seed))
    speech, silent = _levelled(audio)
    changed = CONDITIONS[condition](speech, draws)
    level = 0.02 if condition == "quiet" else 0.5
    return _at_peak(changed, torch.full_like(draws.uniform(0, 1), level), draws.uniform(0.01, 0.01), silent)


def _throat(draws: Draws, *, formants: float = 1, pitch: float = 1, breath: float = 0.1) -> Throat:
    def all_(value: float) -> Tensor:
        return torch.full((draws.batch,), value, device=draws.device)

    return Throat(all_(formants), all_(1), all_(pitch), all_(1), all_(breath), all_(0) > 0)


def _unchanged(audio: Tensor, draws: Draws) -> Tensor:
    return audio


CONDITIONS: dict[str, Callable[[Tensor, Draws], Tensor]] = {
    "clean": _unchanged,
    "noisy": lambda it, draws: it + 10 ** (-10 / 20) * noises.sloped(draws, it.shape[-1], draws.uniform(1, 1)),
    "babble": lambda it, draws: it + 10 ** (-10 / 20) * noises.babble(draws, it),
    "reverberant": lambda it, draws: rooms.reverberated(it, draws, seconds=(0.6, 0.6), direct=(3, 3)),
    "telephone": lambda it, draws: rooms.rounded(
        rooms.band_limited(it, draws.uniform(300, 300), draws.uniform(3400, 3400)), draws.uniform(7, 7)
    ),
    "codec": lambda it, draws: rooms.perceptually_coded(it, draws.uniform(1.2, 1.2)),
    "clipped": lambda it, draws: rooms.clipped(it, draws.decibels(10, 10), draws.chance(0)),
    "quiet": _unchanged,
    "high": lambda it, draws: revoice(it, _throat(draws, formants=1.2, pitch=1.6), draws),
    "low": lambda it, draws: revoice(it, _throat(draws, formants=0.85, pitch=0.65), draws),
    "whispered": lambda it, draws: revoice(it, _throat(draws, breath=1.0), draws),
}


def _noise(draws: Draws, speech: Tensor) -> Tensor:
    """Random noise for speech of unit level, of the kinds and levels documented in `augment`."""
    length = speech.shape[-1]
    steady = noises.sloped(draws, length, draws.uniform(0, 2)) * draws.decibels(-60, -6)[:, None]
    # every recording has some noise, though often inaudible
    total = steady * draws.decibels(-30, 0)[:, None] ** draws.chance(0.5)[:, None].float()
    kinds: tuple[tuple[float, float, float, Callable[[], Tensor]], ...] = (
        (0.15, -35, -10, lambda: noises.hum(draws, length)),
        (0.2, -30, -6, lambda: noises.babble(draws, speech)),
        (0.35, -35, -8, lambda: noises.bursts(draws, length)),
        (0.1, -10, -3, lambda: noises.sloped(draws, length, draws.uniform(0.5, 2))),
    )
    for share, low, high, make in kinds:
        wanted = draws.chance(share)[:, None] * draws.decibels(low, high)[:, None]
        total = total + wanted * make()
    return total


def _some(draws: Draws, share: float, audio: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `change` to about `share` of the clips; computed for all, since that is faster than indexing."""
    return torch.where(draws.chance(share)[:, None], change(audio), audio)


def _levelled(audio: Tensor) -> tuple[Tensor, Tensor]:
    """Normalise speech to unit power where it is audible, [B, T]; also returns which clips are silent, [B]."""
    power = audio.square()
    peak = power.amax(dim=-1, keepdim=True)
    heard = power > peak * 1e-4
    level = ((power * heard).sum(dim=-1, keepdim=True) / heard.sum(dim=-1, keepdim=True).clamp(min=1)).sqrt()
    silent = peak[:, 0] < 1e-10
    return torch.where(silent[:, None], torch.zeros_like(audio), audio / level.clamp(min=1e-9)), silent


def _at_peak(audio: Tensor, peak: Tensor, when_silent: Tensor, silent: Tensor) -> Tensor:
    wanted = torch.where(silent, when_silent, peak)[:, None]
    return audio / audio.abs().amax(dim=-1, keepdim=True).clamp(min=1e-9) * wanted
