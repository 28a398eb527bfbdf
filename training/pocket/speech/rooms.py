"""Recording effects for augmentation: room, microphone, transmission, codec. All batched, [B, T] at 16 kHz.

None shifts the sound in time: filters have zero phase, and a room's direct sound arrives without delay.
"""

import torch
from torch import Tensor

from training.pocket.speech.draws import Draws
from training.pocket.speech.utterance import RATE


def reverberated(audio: Tensor, draws: Draws, *, seconds: tuple[float, float], direct: tuple[float, float]) -> Tensor:
    """Room reverb: single echoes, then an exponentially decaying tail of noise.

    Args:
        seconds: range of the reverberation time RT60.
        direct: range of the direct-to-reverberant ratio in dB.
    """
    length = round(min(1.0, seconds[1]) * RATE)
    time = torch.arange(length, device=audio.device) / RATE
    decay = torch.exp(-6.9 * time[None] / draws.uniform(*seconds)[:, None])
    tail = draws.noise(length) * decay * (time > 0.012)
    # high frequencies decay faster: blend towards a running mean along the tail
    blurred = torch.nn.functional.avg_pool1d(tail[:, None], 9, stride=1, padding=4)[:, 0]
    tail = torch.lerp(tail, blurred, (time / time[-1].clamp(min=1e-3)).clamp(0, 1)[None])
    places = (draws.uniform(0.001, 0.045, 8) * RATE).long().clamp(1, length - 1)
    early = torch.zeros(len(audio), length, device=audio.device)
    early.scatter_add_(1, places, draws.uniform(-1, 1, 8) * torch.exp(-places / (0.02 * RATE)))
    back = tail / _norm(tail) + early / _norm(early) * draws.uniform(0.3, 1.5)[:, None]
    response = back / _norm(back) / draws.decibels(*direct)[:, None]
    response[:, 0] += 1
    return _convolved(audio, response)


def coloured(audio: Tensor, draws: Draws, *, decibels: float) -> Tensor:
    """Microphone response: smooth random peaks and dips over frequency, and a tilt, with a deviation of `decibels`."""
    size = audio.shape[-1]
    frequency = torch.fft.rfftfreq(size, 1 / RATE, device=audio.device)
    octave = (frequency.clamp(min=40) / 40).log2() / 7.65
    knots = decibels * torch.cat([draws.wander(10, 10), draws.wander(1, 2)], dim=1)
    at = (octave * 9).clamp(0, 8.999)
    low = at.floor().long()
    curve = knots[:, low] * (1 - (at - low)) + knots[:, low + 1] * (at - low)
    tilt = 1.5 * decibels * draws.uniform(-1, 1)[:, None] * (octave[None] - 0.5)
    return torch.fft.irfft(torch.fft.rfft(audio) * torch.pow(10.0, (curve + tilt) / 20), n=size)


def band_limited(audio: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Band-pass between `low` and `high` Hz, [B] each, with edges a sixth of an octave wide."""
    size = audio.shape[-1]
    octave = torch.fft.rfftfreq(size, 1 / RATE, device=audio.device).clamp(min=1).log2()[None]
    above = torch.sigmoid((octave - low.clamp(min=1).log2()[:, None]) * 24)
    below = torch.sigmoid((high.log2()[:, None] - octave) * 24)
    return torch.fft.irfft(torch.fft.rfft(audio) * above * below, n=size)


def clipped(audio: Tensor, drive: Tensor, softly: Tensor) -> Tensor:
    """Overdriven by the factor `drive` [B], full scale at each clip's peak; `softly` [B] selects soft clipping."""
    peak = audio.abs().amax(dim=-1, keepdim=True).clamp(min=1e-6)
    driven = audio / peak * drive[:, None]
    return torch.where(softly[:, None], driven.tanh(), driven.clamp(-1, 1)) * peak / drive.clamp(min=1)[:, None]


def perceptually_coded(audio: Tensor, coarseness: Tensor) -> Tensor:
    """Imitate a lossy codec: spectral bins are quantised relative to their surroundings, weak ones dropped.

    Args:
        coarseness: [B], quantisation step as a share of the local amplitude; 0.3 is good, 2 is poor.
    """
    size, hop = 512, 256
    window = torch.hann_window(size, device=audio.device)
    spectrum = torch.stft(audio, size, hop, window=window, return_complex=True)
    magnitude = spectrum.abs()
    local = torch.nn.functional.avg_pool1d(magnitude.transpose(1, 2), 9, stride=1, padding=4).transpose(1, 2)
    # hearing is less sensitive at high frequencies, so codecs quantise more coarsely there
    step = (
        local * coarseness[:, None, None] * torch.linspace(0.4, 1.6, magnitude.shape[1], device=audio.device)[:, None]
    )
    rounded = (magnitude / (step + 1e-9)).round() * step
    coded = spectrum * (rounded / (magnitude + 1e-9))
    return torch.istft(coded, size, hop, window=window, length=audio.shape[-1])


def rounded(audio: Tensor, bits: Tensor) -> Tensor:
    """Quantise to `bits` [B] with mu-law companding, as telephones do, full scale at each clip's peak."""
    peak = audio.abs().amax(dim=-1, keepdim=True).clamp(min=1e-6)
    law = 255.0
    companded = (audio / peak).sign() * torch.log1p(law * (audio / peak).abs()) / torch.log1p(torch.tensor(law))
    levels = torch.exp2(bits - 1)[:, None]
    coarse = (companded * levels).round() / levels
    return coarse.sign() * torch.expm1(coarse.abs() * torch.log1p(torch.tensor(law))) / law * peak


def _norm(values: Tensor) -> Tensor:
    return values.norm(dim=-1, keepdim=True).clamp(min=1e-9)


def _convolved(audio: Tensor, response: Tensor) -> Tensor:
    size = audio.shape[-1] + response.shape[-1]
    product = torch.fft.rfft(audio, n=size) * torch.fft.rfft(response, n=size)
    return torch.fft.irfft(product, n=size)[..., : audio.shape[-1]]
