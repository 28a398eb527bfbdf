"""Voice conversion: new pitch, formants and excitation for the same words, with timing and loudness kept.

A synthesiser's voices share one kind of excitation and one set of resonances, and a network trained on nothing else
overfits to those. Speech is decomposed as in the source-filter model (Fant, 1960): the spectral envelope, from the low
cepstrum, is the vocal tract; the excitation is replaced by pulses of another pitch, by noise or both, or kept. Finally
every frame gets its original energy. Everything is batched and runs on any device.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.pocket.speech.draws import Draws
from training.pocket.speech.utterance import RATE

_SIZE, _HOP = 512, 128
_CEPSTRUM = 32
_PITCH_SIZE, _LOWEST, _HIGHEST = 1024, 60.0, 420.0


@dataclass(frozen=True)
class Throat:
    """Parameters of the converted voice of each clip; every field is [B].

    `formants` multiplies the frequencies of the resonances and `sharpness` their height (1 keeps both). `pitch`
    multiplies the pitch and `melody` its variation. `breath` is the share of noise in the excitation, 0..1, higher at
    high frequencies. `kept` clips keep their own excitation and pitch; only the vocal tract changes.
    """

    formants: Tensor
    sharpness: Tensor
    pitch: Tensor
    melody: Tensor
    breath: Tensor
    kept: Tensor

    @classmethod
    def drawn(cls, draws: Draws) -> "Throat":
        """Sample parameters about as varied as human voices; 12 % whisper."""
        whispering = draws.chance(0.12)
        breath = torch.where(whispering, torch.ones_like(draws.uniform(0, 1)), draws.uniform(0, 0.5))
        return cls(
            formants=torch.exp2(draws.uniform(-0.28, 0.28)),
            sharpness=draws.uniform(0.75, 1.2),
            pitch=torch.exp2(draws.uniform(-0.7, 0.7)),
            melody=draws.uniform(0.3, 2.0),
            breath=breath,
            kept=draws.chance(0.4),
        )


def revoice(audio: Tensor, throat: Throat, draws: Draws) -> Tensor:
    """Convert voices: [B, T] at 16 kHz in and out, with the same timing and loudness."""
    length = audio.shape[-1]
    window = torch.hann_window(_SIZE, device=audio.device)
    spectrum = torch.stft(audio, _SIZE, _HOP, window=window, return_complex=True)
    magnitude = spectrum.abs()
    # a floor 80 dB below the peak, far below speech, keeps the logarithm finite in silence
    floor = magnitude.amax(dim=(1, 2), keepdim=True) * 1e-4 + 1e-8
    envelope = spectral_envelope(magnitude + floor)
    wanted = _warped(envelope, throat.formants)
    mean = wanted.mean(dim=1, keepdim=True)
    # individual resonances: a few smooth peaks and dips, constant over the clip
    wanted = mean + (wanted - mean) * throat.sharpness[:, None, None]
    wanted = wanted + 0.35 * draws.wander(wanted.shape[1], 12)[:, :, None]

    drive = torch.stft(_drive(audio, throat, draws), _SIZE, _HOP, window=window, return_complex=True)
    own = spectrum / envelope.exp()
    made = torch.where(throat.kept[:, None, None], own, drive) * wanted.exp()
    energy = made.abs().square().sum(dim=1, keepdim=True)
    made = made * (magnitude.square().sum(dim=1, keepdim=True) / (energy + floor**2)).sqrt()
    return torch.istft(made, _SIZE, _HOP, window=window, length=length)


def spectral_envelope(magnitude: Tensor) -> Tensor:
    """Log spectral envelope, [B, F, N] in and out: the low cepstrum, without the harmonics of the pitch."""
    cepstrum = torch.fft.irfft(magnitude.log(), dim=1)
    lifter = torch.zeros(cepstrum.shape[1], device=magnitude.device)
    lifter[:_CEPSTRUM] = torch.cos(torch.linspace(0, torch.pi / 2, _CEPSTRUM, device=magnitude.device))
    lifter[-_CEPSTRUM + 1 :] = lifter[1:_CEPSTRUM].flip(0)
    return torch.fft.rfft(cepstrum * lifter[None, :, None], dim=1).real


def pitch_track(audio: Tensor) -> tuple[Tensor, Tensor]:
    """Pitch in Hz and voicing (0..1) every 8 ms, [B, N] each, by autocorrelation.

    Unvoiced frames get the clip's mean pitch. An occasional octave error is harmless: it gives just another voice.
    """
    frames = torch.nn.functional.pad(audio, (_PITCH_SIZE // 2, _PITCH_SIZE // 2)).unfold(-1, _PITCH_SIZE, _HOP)
    window = torch.hann_window(_PITCH_SIZE, device=audio.device)
    own = _autocorrelation(window[None, None])
    found = _autocorrelation(frames * window)
    shortest, longest = int(RATE / _HIGHEST), int(RATE / _LOWEST)
    likeness = found / (found[..., :1] + 1e-6) / (own / own[..., :1])
    best, lag = likeness[..., shortest:longest].max(dim=-1)
    energy = found[..., 0]
    heard = energy > energy.amax(dim=-1, keepdim=True) * 1e-3
    voiced = ((best - 0.35) / 0.3).clamp(0, 1) * heard
    pitch = RATE / (lag + shortest).float()
    pitch = (
        torch.nn.functional.pad(pitch[:, None], (2, 2), mode="replicate")[:, 0].unfold(-1, 5, 1).median(dim=-1).values
    )
    mean = (pitch.log() * voiced).sum(dim=-1, keepdim=True) / (voiced.sum(dim=-1, keepdim=True) + 1e-6)
    mean = torch.where(voiced.sum(dim=-1, keepdim=True) > 0, mean, torch.full_like(mean, 4.8))
    return torch.where(voiced > 0.2, pitch, mean.exp().expand_as(pitch)), voiced


def _autocorrelation(frames: Tensor) -> Tensor:
    power = torch.fft.rfft(frames, n=2 * _PITCH_SIZE).abs().square()
    return torch.fft.irfft(power)[..., :_PITCH_SIZE]


def _drive(audio: Tensor, throat: Throat, draws: Draws) -> Tensor:
    """The excitation [B, T], spectrally flat: pulses of the new pitch where voiced, noise elsewhere."""
    length = audio.shape[-1]
    pitch, voiced = pitch_track(audio)
    mean = pitch.log().mean(dim=-1, keepdim=True)
    melody = mean + (pitch.log() - mean) * throat.melody[:, None]
    melody = melody + throat.pitch.log()[:, None] + 0.03 * draws.wander(pitch.shape[-1], pitch.shape[-1] // 12)
    hertz = _over_time(melody.exp().clamp(50, 500), length)
    hertz = hertz * (1 + 0.01 * draws.wander(length, length // 160))
    phase = (hertz.double() / RATE).cumsum(dim=-1)
    cycle = phase.floor()
    # a pulse falls between two samples; splitting it between them avoids jitter from rounding
    late = ((phase - cycle) / (hertz.double() / RATE)).clamp(0, 1).float()
    begins = torch.nn.functional.pad((cycle[:, 1:] > cycle[:, :-1]).float(), (1, 0))
    height = begins * (RATE / hertz).sqrt()
    pulses = height * (1 - late) + torch.nn.functional.pad((height * late)[:, 1:], (0, 1))
    noise = draws.noise(length)
    # breath noise is above a frequency specific to the voice, and at all frequencies in a whisper
    share = throat.breath[:, None]
    high = torch.sigmoid((torch.linspace(0, RATE / 2, length // 2 + 1, device=audio.device) - 4000) / 700)
    airy = (share + (1 - share) * high * draws.uniform(0.1, 1.0)[:, None]).clamp(0, 1)
    dispersed = torch.fft.rfft(pulses) * torch.exp(1j * 2.0 * draws.wander(length // 2 + 1, 40))
    mixed = dispersed * (1 - airy).sqrt() + torch.fft.rfft(noise) * airy.sqrt()
    voicing = _over_time(voiced, length)
    return torch.fft.irfft(mixed, n=length) * voicing.sqrt() + noise * (1 - voicing).sqrt()


def _over_time(track: Tensor, length: int) -> Tensor:
    return torch.nn.functional.interpolate(track[:, None], size=length, mode="linear", align_corners=True)[:, 0]


def _warped(envelope: Tensor, formants: Tensor) -> Tensor:
    """Envelopes [B, F, N] stretched so that frequency f moves to `formants` * f."""
    bins = envelope.shape[1]
    at = (torch.arange(bins, device=envelope.device)[None] / formants[:, None]).clamp(max=bins - 1.001)
    low = at.floor().long()
    share = (at - low)[:, :, None]
    index = low[:, :, None].expand_as(envelope)
    return envelope.gather(1, index) * (1 - share) + envelope.gather(1, index + 1) * share
