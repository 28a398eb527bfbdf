"""Speech as the network hears it: all hidden layers of wav2vec2, at the video's frame rate.

wav2vec2 gives 50 feature frames a second. The reference interpolates them to 30 and picks the one nearest to each
video frame; past the end of the audio it gives zeros. Here each segment's share is computed when it is asked for, so
that memory does not grow with the audio's length.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model, Wav2Vec2Processor

SAMPLE_RATE = 16_000  # Hz, of the waveform that wav2vec2 takes
FEATURE_RATE = 50  # Hz, of its hidden states
SHORTEST_SAMPLES = 400  # what the first feature frame looks at
HOP = SAMPLE_RATE // FEATURE_RATE
INTERPOLATED_RATE = 30  # Hz
WHOLE_SECONDS = 60.0  # up to here wav2vec2 sees the whole audio at once
WINDOW_SECONDS = 30.0
CONTEXT_SECONDS = 10.0  # on either side of a window


@dataclass
class AudioFeatures:
    """Hidden states [layers, T, dim] at 50 Hz, given piece by piece.

    Args:
        length: T, the feature frames of the whole audio.
        read: `read(start, stop)` gives [layers, stop - start, dim] in float32 on the CPU.
    """

    length: int
    read: Callable[[int, int], torch.Tensor]

    @classmethod
    def from_tensor(cls, features: torch.Tensor) -> "AudioFeatures":
        """From hidden states [layers, T, dim] that are already there."""
        if features.ndim != 3:
            raise ValueError(f"audio_features is {tuple(features.shape)}; need [layers, T, dim] at 50 Hz.")
        features = features.float().cpu()
        return cls(features.shape[1], lambda start, stop: features[:, start:stop])

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, part: slice) -> "AudioFeatures":
        """The feature frames of a slice, which has no step and counts from the start."""
        start, stop, _ = part.indices(self.length)
        return AudioFeatures(max(0, stop - start), lambda a, b: self.read(start + a, start + b))

    def num_segments(self, fps: float, frames_per_segment: int) -> int:
        """How many segments the reference makes of this audio; the last one may hold no speech at all."""
        per_segment = frames_per_segment * (INTERPOLATED_RATE / fps)
        return int(self._interpolated_length() / per_segment) + 1

    def bucket(self, segment: int, fps: float, frames_per_segment: int) -> torch.Tensor:
        """Hidden states of segment number `segment`, [layers, dim, frames_per_segment]; zeros after the audio's end."""
        total = self._interpolated_length()
        frames = np.arange(segment * frames_per_segment, (segment + 1) * frames_per_segment)
        # float64 and round-half-even, as numpy does in the reference
        nearest = np.round(frames / fps * INTERPOLATED_RATE).astype(np.int64)
        heard = nearest[nearest < total]
        if len(heard) == 0:
            # the last frame, since a lazy reader most likely has its window at hand
            layers, _, dim = self.read(max(0, self.length - 1), self.length).shape
            return torch.zeros(layers, dim, frames_per_segment)
        # linear interpolation with aligned corners, done only where it is looked at, and in the reference's float32:
        # minutes into the audio its positions are off by a thousandth of a frame, and equal is equal
        step = np.float32(self.length - 1) / np.float32(total - 1) if total > 1 else np.float32(0)
        position = heard.astype(np.float32) * step
        left = np.minimum(np.floor(position).astype(np.int64), self.length - 1)
        right = np.minimum(left + 1, self.length - 1)
        weight = torch.from_numpy(position - left.astype(np.float32))[None, :, None]
        start, stop = int(left[0]), int(right[-1]) + 1
        features = self.read(start, stop)
        mixed = features[:, left - start] * (1 - weight) + features[:, right - start] * weight
        filled = torch.zeros(mixed.shape[0], frames_per_segment, mixed.shape[2])
        filled[:, : mixed.shape[1]] = mixed
        return filled.transpose(1, 2).contiguous()

    def _interpolated_length(self) -> int:
        return int(self.length / FEATURE_RATE * INTERPOLATED_RATE)


def encode_audio(
    waveform: np.ndarray | torch.Tensor,
    audio_encoder: Wav2Vec2Model,
    audio_processor: Wav2Vec2FeatureExtractor | Wav2Vec2Processor,
    whole_seconds: float = WHOLE_SECONDS,
    window_seconds: float = WINDOW_SECONDS,
    context_seconds: float = CONTEXT_SECONDS,
) -> AudioFeatures:
    """Features of a mono waveform [T] at 16 kHz, normalised over the whole of it.

    Up to `whole_seconds` the encoder sees everything at once, as in the reference. Longer audio is encoded window by
    window, each seen with `context_seconds` on both sides; only one window is held at a time. The convolutions see the
    same either way; attention, which would look at the whole file, does not. How far the features are off thereby
    depends on the encoder: about 4 % (norm of the difference over norm) with `weights/pocket/audio_encoder` where four
    voices take turns. To measure another one, encode the same audio with `whole_seconds=math.inf` too and compare
    `read(0, length)` of both, as `tests/s2v/test_audio_features.py` does.

    Raises:
        ValueError: the waveform is not mono, shorter than the encoder's first window (25 ms), or not finite.
    """
    samples = torch.as_tensor(waveform).detach().float().cpu().numpy()
    if samples.ndim != 1:
        raise ValueError(f"waveform is {samples.shape}; need mono [T] at {SAMPLE_RATE} Hz.")
    length = int(audio_encoder._get_feat_extract_output_lengths(torch.tensor(len(samples))))
    if length < 1:
        raise ValueError(f"The audio has {len(samples)} samples at {SAMPLE_RATE} Hz; at least 25 ms are needed.")
    if not np.isfinite(samples).all():
        raise ValueError(f"waveform has {np.count_nonzero(~np.isfinite(samples))} samples that are NaN or infinite.")
    normalised = audio_processor(samples, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values

    @torch.no_grad()  # here, since windows are encoded when they are asked for
    def encode(start: int, stop: int) -> torch.Tensor:
        # feature frame i looks at samples [i·HOP, i·HOP + HOP + 80): a window that begins at a multiple of HOP gives
        # the same frames as the whole audio, apart from what the transformer sees around them
        piece = normalised[:, start * HOP : stop * HOP + HOP]
        states = audio_encoder(
            piece.to(audio_encoder.device, audio_encoder.dtype), output_hidden_states=True
        ).hidden_states
        return torch.cat([state[:, : stop - start] for state in states]).float().cpu()

    if length <= whole_seconds * FEATURE_RATE:
        return AudioFeatures.from_tensor(encode(0, length))
    window, context = round(window_seconds * FEATURE_RATE), round(context_seconds * FEATURE_RATE)
    return AudioFeatures(length, _Windows(length, window, context, encode).read)


class _Windows:
    """Reads features through windows of a fixed size and keeps the last one."""

    def __init__(self, length: int, window: int, context: int, encode: Callable[[int, int], torch.Tensor]) -> None:
        self.length, self.window, self.context, self.encode = length, window, context, encode
        self.number = -1
        self.features = torch.empty(0)

    def read(self, start: int, stop: int) -> torch.Tensor:
        parts = []
        for number in range(start // self.window, math.ceil(stop / self.window)):
            first = number * self.window
            if number != self.number:
                before = max(0, first - self.context)
                after = min(self.length, first + self.window + self.context)
                seen = self.encode(before, after)
                self.features = seen[:, first - before : first - before + self.window].clone()
                self.number = number
            parts.append(self.features[:, max(start - first, 0) : stop - first])
        return torch.cat(parts, dim=1)
