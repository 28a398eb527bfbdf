"""Sound in memory, what is accepted as sound, and resampling with soxr."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import soxr  # type: ignore[import-untyped]
from numpy.typing import NDArray

from wanavatar_lab.errors import MediaError

LOWEST_RATE, HIGHEST_RATE, MOST_CHANNELS = 8_000, 192_000, 8
BLOCK = 1 << 16  # samples that are handled at a time


@dataclass(frozen=True, eq=False)
class Audio:
    """Sound in memory.

    Attributes:
        samples: float32 `[T, C]`, full scale is ±1, all finite, at least one sample, 1 to 8 channels.
        rate: samples per second, 8,000 to 192,000 Hz.

    Raises:
        MediaError: the samples or the rate are not as said.
    """

    samples: NDArray[np.float32]
    rate: int

    def __post_init__(self) -> None:
        shape = self.samples.shape
        if self.samples.dtype != np.float32 or len(shape) != 2:
            raise MediaError(f"Audio is {self.samples.dtype} {list(shape)}; it must be float32 [samples, channels].")
        check_rate("The audio's rate", self.rate)
        check_channels("The audio", shape[1])
        if shape[0] == 0:
            raise MediaError("The audio has no samples. Give some that lasts longer than 0 s.")
        check_finite("The audio", self.samples)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.samples.shape[1])

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return len(self.samples) / self.rate


def check_rate(name: str, rate: int) -> None:
    """Refuse a sample rate outside 8 to 192 kHz; `name` is how the text calls it."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise MediaError(f"{name} is {rate} Hz; it must be {LOWEST_RATE:,} to {HIGHEST_RATE:,} Hz.")


def check_channels(name: str, channels: int) -> None:
    """Refuse no channels and more than 8; `name` is how the text calls the sound."""
    if not 1 <= channels <= MOST_CHANNELS:
        raise MediaError(f"{name} has {channels} channels; it must have 1 to {MOST_CHANNELS}.")


def check_finite(name: str, samples: NDArray[np.float32]) -> None:
    """Refuse samples that are NaN or infinite; `name` is how the text calls the sound."""
    if not np.isfinite(samples).all():
        raise MediaError(f"{name} holds samples that are not numbers (NaN or infinite). Export it again.")


def resampled(blocks: Iterator[NDArray[np.float32]], rate: int, wanted: int) -> Iterator[NDArray[np.float32]]:
    """Resample blocks `[n, C]` from `rate` to `wanted` Hz; the result is aligned with the input, without delay."""
    if rate == wanted:
        yield from blocks
        return
    stream: soxr.ResampleStream | None = None
    empty = np.zeros((0, 1), np.float32)
    for block in blocks:
        if stream is None:
            stream = soxr.ResampleStream(rate, wanted, block.shape[1], dtype="float32", quality="HQ")
            empty = np.zeros((0, block.shape[1]), np.float32)
        yield stream.resample_chunk(block)
    if stream is not None:
        yield stream.resample_chunk(empty, last=True)
