"""Background noises for augmentation. All batched, [B, T] at 16 kHz, of unit power."""

import torch
from torch import Tensor

from training.pocket.speech.draws import Draws
from training.pocket.speech.utterance import RATE


def sloped(draws: Draws, length: int, slope: Tensor) -> Tensor:
    """Steady noise whose power falls by `slope` [B] times 3 dB an octave: 0 is white, 1 pink, 2 brown."""
    frequency = torch.fft.rfftfreq(length, 1 / RATE, device=draws.device).clamp(min=30)
    shaped = torch.fft.rfft(draws.noise(length)) * frequency[None] ** (-0.5 * slope[:, None])
    return _unit(torch.fft.irfft(shaped, n=length))


def hum(draws: Draws, length: int) -> Tensor:
    """Mains hum: 50 or 60 Hz and its harmonics."""
    time = torch.arange(length, device=draws.device) / RATE
    base = torch.where(draws.chance(0.5), 50.0, 60.0)
    order = torch.arange(1, 13, device=draws.device)
    phase = 2 * torch.pi * (base[:, None, None] * order[None, :, None] * time + draws.uniform(0, 1, 12)[:, :, None])
    return _unit((torch.sin(phase) * (draws.uniform(0, 1, 12) / order)[:, :, None]).sum(dim=1))


def babble(draws: Draws, speech: Tensor, talkers: int = 4) -> Tensor:
    """Babble of other speakers: for each clip, other clips of the batch, shifted in time and summed."""
    others = torch.zeros_like(speech)
    loud = _unit(speech)
    for talker in range(1, talkers + 1):
        moved = torch.roll(loud, (talker, (talker * 7919) % speech.shape[-1]), dims=(0, 1))
        others = others + moved * draws.decibels(-8, 0)[:, None] * (1 if talker % 2 else -1)
    # a batch of one has no other clips, so its own is reversed, which is unintelligible
    return _unit(others.flip(-1))


def bursts(draws: Draws, length: int) -> Tensor:
    """Occasional breaths, rustles and clicks: short noises with silence between them."""
    count = max(1, round(length / RATE * 1.2))
    time = torch.arange(length, device=draws.device)[None] / RATE
    total = torch.zeros(draws.batch, length, device=draws.device)
    for _ in range(count):
        centre = draws.uniform(0, length / RATE)[:, None]
        width = torch.exp(draws.uniform(-5.5, -1.6))[:, None]
        total = total + torch.exp(-(((time - centre) / width) ** 2)) * draws.uniform(0.2, 1)[:, None]
    return _unit(sloped(draws, length, draws.uniform(0, 1.2)) * total)


def _unit(audio: Tensor) -> Tensor:
    return audio / audio.square().mean(dim=-1, keepdim=True).sqrt().clamp(min=1e-6)
