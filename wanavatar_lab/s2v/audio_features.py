"""Audio features of the network: all hidden layers of wav2vec2, resampled to the video's frame rate.

wav2vec2 gives 50 feature frames a second. The reference interpolates them to 30 and takes the one nearest to each video
frame; past the end of the audio it takes zeros. Each segment's part is computed when it is read, so that memory does
not grow with the audio's length.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from transformers import Wav2Vec2FeatureExtractor, Wav2Vec2Model, Wav2Vec2Processor

from wanavatar_lab.errors import is_out_of_memory
from wanavatar_lab.requests.speech_to_video import AUDIO_RATE, LEAST_SAMPLES

SAMPLE_RATE = AUDIO_RATE  # Hz, of the waveform that wav2vec2 takes
FEATURE_RATE = 50  # Hz, of its hidden states
SHORTEST_SAMPLES = LEAST_SAMPLES  # the receptive field of one feature frame
HOP = SAMPLE_RATE // FEATURE_RATE
INTERPOLATED_RATE = 30  # Hz, the reference's step between 50 Hz and the video's rate
# up to here wav2vec2 encodes the whole audio at once. Its attention takes a time that grows with the square of the
# length, and memory that grows with the length: a large one needs about 0.4 GB of the GPU for every minute
WHOLE_SECONDS = 600.0
# longer audio is encoded in windows with a context on either side, which need as much; in shorter where memory is short
WINDOW_SECONDS, CONTEXT_SECONDS = 300.0, 150.0
SHORT_WINDOW_SECONDS, SHORT_CONTEXT_SECONDS = 30.0, 10.0

_log = logging.getLogger(__name__)


@dataclass
class AudioFeatures:
    """Hidden states [layers, T, dim] at 50 Hz, read piece by piece.

    Args:
        length: T, the feature frames of the whole audio.
        read: `read(start, stop)` returns [layers, stop - start, dim] in float32 on the CPU.
    """

    length: int
    read: Callable[[int, int], torch.Tensor]

    @classmethod
    def from_tensor(cls, features: torch.Tensor) -> "AudioFeatures":
        """From hidden states [layers, T, dim] in memory."""
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
        """How many segments the reference makes of this audio; the last one may have no speech at all."""
        per_segment = frames_per_segment * (INTERPOLATED_RATE / fps)
        return int(self._interpolated_length() / per_segment) + 1

    def bucket(self, segment: int, fps: float, frames_per_segment: int) -> torch.Tensor:
        """Hidden states of segment number `segment`, [layers, dim, frames_per_segment]; zeros after the audio's end."""
        total = self._interpolated_length()
        frames = np.arange(segment * frames_per_segment, (segment + 1) * frames_per_segment)
        # float64 and round-half-even, as numpy does in the reference
        nearest = np.round(frames / fps * INTERPOLATED_RATE).astype(np.int64)
        inside = nearest[nearest < total]
        if len(inside) == 0:
            # the last frame only for its shape: its window is most likely cached
            layers, _, dim = self.read(max(0, self.length - 1), self.length).shape
            return torch.zeros(layers, dim, frames_per_segment)
        # linear interpolation with aligned corners, only where it is needed, and in the reference's float32: minutes
        # into the audio its positions are off by a thousandth of a frame, and results have to be the same
        step = np.float32(self.length - 1) / np.float32(total - 1) if total > 1 else np.float32(0)
        position = inside.astype(np.float32) * step
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


def hidden_states(audio_encoder: Wav2Vec2Model, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The `layers + 1` hidden states [B, T, dim] of normalised waveforms [B, T·HOP + 80], as the reference takes them.

    The last one is behind the encoder's final layer norm. Since version 5 transformers lists it as it is before that
    norm; the reference pins 4.51.3, whose list ends behind it.
    """
    result = audio_encoder(values, output_hidden_states=True)
    return (*result.hidden_states[:-1], result.last_hidden_state)


def encode_audio(
    waveform: np.ndarray | torch.Tensor,
    audio_encoder: Wav2Vec2Model,
    audio_processor: Wav2Vec2FeatureExtractor | Wav2Vec2Processor,
    whole_seconds: float = WHOLE_SECONDS,
    window_seconds: float = WINDOW_SECONDS,
    context_seconds: float = CONTEXT_SECONDS,
) -> AudioFeatures:
    """Features of a mono waveform [T] at 16 kHz, normalised over the whole of it.

    Up to `whole_seconds` everything is encoded at once, as in the reference. Longer audio is encoded window by window,
    each with `context_seconds` on both sides; one window is kept at a time. So is audio that there is no memory for,
    in shorter windows; either is logged. The convolutions get the same input either way; attention, which in the
    reference spans the whole file, does not. The error depends on the encoder: with `weights/pocket/audio_encoder`,
    where four voices alternate, short windows are about 4 % off (norm of the difference over norm). To measure another
    one, encode the same audio with `whole_seconds=math.inf` too and compare `read(0, length)` of both, as
    `tests/s2v/test_audio_features.py` does.

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

    @torch.no_grad()  # here, since windows are encoded when they are read
    def encode(start: int, stop: int) -> torch.Tensor:
        # the convolutions of feature frame i span samples [i·HOP, i·HOP + HOP + 80): a window that begins at a multiple
        # of HOP gives the same frames as the whole audio, apart from the attention
        piece = normalised[:, start * HOP : stop * HOP + HOP].to(audio_encoder.device, audio_encoder.dtype)
        # one by one, so that the device need not hold all of them twice
        return torch.cat([state[:, : stop - start].float().cpu() for state in hidden_states(audio_encoder, piece)])

    is_whole, seconds = length <= whole_seconds * FEATURE_RATE, length / FEATURE_RATE
    if is_whole:
        try:
            return AudioFeatures.from_tensor(encode(0, length))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        window_seconds, context_seconds = SHORT_WINDOW_SECONDS, SHORT_CONTEXT_SECONDS
    _log.warning(
        "%.1f s of voice are heard in windows of %g s with %g s on either side, %s.",
        *(seconds, window_seconds, context_seconds),
        "since memory is too short for all at once" if is_whole else f"since more than {whole_seconds:g} s are",
    )
    window, context = round(window_seconds * FEATURE_RATE), round(context_seconds * FEATURE_RATE)

    @lru_cache(maxsize=1)
    def window_features(number: int) -> torch.Tensor:
        first = number * window
        before = max(0, first - context)
        features = encode(before, min(length, first + window + context))
        return features[:, first - before : first - before + window].clone()

    def read(start: int, stop: int) -> torch.Tensor:
        numbers = range(start // window, math.ceil(stop / window))
        parts = [window_features(n)[:, max(start - n * window, 0) : stop - n * window] for n in numbers]
        return torch.cat(parts, dim=1)

    return AudioFeatures(length, read)
