"""Sound in memory: what is accepted as sound, mixing surround channels down, and resampling with soxr."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import av
import numpy as np
import soxr  # type: ignore[import-untyped]
from numpy.typing import NDArray

from wanavatar_lab.errors import MediaError

MIN_RATE, MAX_RATE, MAX_CHANNELS = 8_000, 192_000, 8  # Hz, Hz, channels
# Hz, of files, which are resampled to within those: the sounds of old systems, and recorders of DXD and DSD. Others are
# of a damaged header
MIN_FILE_RATE, MAX_FILE_RATE = 1_000, 1_000_000
BLOCK = 1 << 16  # samples that are handled at a time
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "quad", 5: "5.0", 6: "5.1", 7: "6.1", 8: "7.1"}
# What a surround channel adds to the left and to the right of stereo, as in ITU-R BS.775: the centre and the surround
# channels at -3 dB, the low-frequency effects not at all. A channel of another name counts as a rear centre.
_MINUS_3_DB = 0.5**0.5
_SIDES = {"FL": (1.0, 0.0), "FR": (0.0, 1.0), "FC": (_MINUS_3_DB, _MINUS_3_DB), "LFE": (0.0, 0.0)}
_SIDES |= dict.fromkeys(("BL", "SL"), (_MINUS_3_DB, 0.0)) | dict.fromkeys(("BR", "SR"), (0.0, _MINUS_3_DB))


@dataclass(frozen=True, eq=False)
class Audio:
    """Sound in memory.

    Attributes:
        samples: float32 `[T, C]`, full scale is ±1, all finite, at least one sample, 1 to 8 channels.
        rate: samples per second, 8,000 to 192,000 Hz.
        missing: what could not be read of the file that it comes from, in words; empty if nothing is known to be.

    Raises:
        MediaError: the samples or the rate are outside these bounds.
    """

    samples: NDArray[np.float32]
    rate: int
    missing: str = ""

    def __post_init__(self) -> None:
        shape = self.samples.shape
        if self.samples.dtype != np.float32 or len(shape) != 2:
            raise MediaError(f"Audio is {self.samples.dtype} {list(shape)}; it must be float32 [samples, channels].")
        check_format("this audio", self.rate, shape[1])
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


def check_format(name: str, rate: int, channels: int) -> None:
    """Refuse a rate outside 8 to 192 kHz, no channels, and more than 8; `name` is how the message calls the sound."""
    if not MIN_RATE <= rate <= MAX_RATE:
        raise MediaError(
            f"The rate of {name} is {rate} Hz; it must be {MIN_RATE:,} to {MAX_RATE:,} Hz. Choose one in between."
        )
    if not 1 <= channels <= MAX_CHANNELS:
        raise MediaError(
            f"The sound of {name} has {channels} channels; it must have 1 to {MAX_CHANNELS}. Export it with 1 or 2."
        )


def check_file_rate(path: object, rate: int) -> None:
    """Refuse the sound of a file with a rate that no recording has."""
    if not MIN_FILE_RATE <= rate <= MAX_FILE_RATE:
        raise MediaError(
            f"{path} states {rate} Hz for its sound; {MIN_FILE_RATE:,} to {MAX_FILE_RATE:,} Hz can be read. Export it "
            "again."
        )


def check_finite(name: str, samples: NDArray[np.float32]) -> None:
    """Refuse samples that are NaN or infinite; `name` is how the message calls the sound."""
    if not np.isfinite(samples).all():
        raise MediaError(f"{name} holds samples that are not numbers (NaN or infinite). Export it again.")


def stereo_weights(channels: int, names: Sequence[str] = ()) -> NDArray[np.float32]:
    """How to mix surround sound down to stereo: weights `[C, 2]`, by which samples `[T, C]` are multiplied.

    Args:
        channels: 3 to 8.
        names: of the channels, as FFmpeg calls them (FL, FR, FC, ...). If it knows none of them, they are taken for
            those of the usual layout with so many.
    """
    if not set(names) & set(_SIDES):
        names = [channel.name for channel in av.AudioLayout(LAYOUTS[channels]).channels]
    return np.array([_SIDES.get(name, (0.5, 0.5)) for name in names], np.float32)


def resampled(blocks: Iterator[NDArray[np.float32]], rate: int, wanted: int) -> Iterator[NDArray[np.float32]]:
    """Resample blocks `[n, C]` from `rate` to `wanted` Hz; the result is aligned with the input, without delay.

    It has as many samples as librosa's, through which Wan2.2 reads audio: a part of one at the end counts as one.
    """
    if rate == wanted:
        yield from blocks
        return
    stream: soxr.ResampleStream | None = None
    given = made = 0
    for block in blocks:
        stream = stream or soxr.ResampleStream(rate, wanted, block.shape[1], dtype="float32", quality="HQ")
        given += len(block)
        found = stream.resample_chunk(block)
        made += len(found)
        yield found
    if stream is not None:
        found = stream.resample_chunk(block[:0], last=True)
        yield np.pad(found, ((0, max(0, -(-given * wanted // rate) - made - len(found))), (0, 0)))
