"""Write sound: WAV and FLAC files, and the AAC track of a video while its frames arrive."""

import logging
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import OutputContainer
from numpy.typing import NDArray

from wanavatar_lab.errors import MediaError, check_cancelled
from wanavatar_lab.media.audio import BLOCK, LAYOUTS, Audio, resampled, stereo_weights
from wanavatar_lab.media.container import writing

CODECS = {".wav": "pcm_s16le", ".flac": "flac"}
AAC_FRAME = 1024  # samples
AUDIBLE = 1.12  # of full scale: 1 dB above it
AAC_BITS_PER_CHANNEL = 160_000  # per second; FFmpeg's encoder is audibly coarse below 128,000

_log = logging.getLogger(__name__)


def write_audio(path: Path | str, audio: Audio, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write 16-bit WAV or FLAC, chosen by the suffix, whole or not at all; samples beyond ±1 are clipped, and said.

    Args:
        metadata: written as one JSON object into the file's comment.

    Raises:
        MediaError: another suffix, or the folder cannot be written to.
        DiskFull: there is no room.
    """
    codec = CODECS.get(Path(path).suffix.lower())
    if codec is None:
        raise MediaError(f"{path} does not end in .wav or .flac. Choose one of these.")
    with writing(path, metadata=metadata) as container:
        stream = container.add_stream(codec, rate=audio.rate, layout=LAYOUTS[audio.channels], format="s16")
        assert isinstance(stream, AudioStream)
        for place in range(0, len(audio.samples), BLOCK):
            check_cancelled()
            # 32768 is the scale that reading undoes, so that a file read and written again keeps its samples
            scaled = np.rint(audio.samples[place : place + BLOCK] * np.float32(32768))
            samples = np.clip(scaled, -32768, 32767).astype(np.int16)
            container.mux(stream.encode(_frame(samples.reshape(1, -1), "s16", audio.channels, audio.rate, place)))
        container.mux(stream.encode(None))
    say_clipped(path, audio)


def say_clipped(path: Path | str, audio: Audio) -> None:
    """Log where sound that is written to `path` is clipped, but for what resampling and codecs add to full scale."""
    if (peak := float(np.abs(audio.samples).max(initial=0.0))) > AUDIBLE:
        _log.warning(
            "The sound of %s reaches %.1f times full scale, where it is clipped. Normalize its loudness first.",
            path,
            peak,
        )


class SoundTrack:
    """The AAC track of a video that is being written; sound is resampled and encoded only as far as it is needed.

    Mono and stereo stay as they are; surround sound is mixed down to stereo, which all players play alike, and made
    quieter where the sum would clip. The rate is 44,100 Hz for that rate and its fractions and multiples, else
    48,000 Hz: all players know these two.
    """

    def __init__(self, container: OutputContainer, audio: Audio) -> None:
        self._samples, self._own_rate = len(audio.samples), audio.rate
        self.rate = 44_100 if audio.rate % 11_025 == 0 else 48_000
        self.channels = min(audio.channels, 2)
        stream = container.add_stream("aac", rate=self.rate, layout=LAYOUTS[self.channels], format="fltp")
        assert isinstance(stream, AudioStream)
        stream.bit_rate = AAC_BITS_PER_CHANNEL * self.channels
        self._container, self._stream = container, stream
        self._blocks = resampled(_at_most_stereo(audio), audio.rate, self.rate)
        self._waiting = np.zeros((0, self.channels), np.float32)
        self._written = 0

    def left(self, seconds: Fraction) -> Fraction:
        """How many samples of the sound, by its own rate, lie behind `seconds`; negative where it ends before."""
        return self._samples - seconds * self._own_rate

    def advance(self, seconds: Fraction) -> None:
        """Write whole AAC frames until the sound reaches `seconds`, or as far as it goes."""
        while self._written < seconds * self.rate and self._fill(AAC_FRAME):
            self._encode(AAC_FRAME)

    def finish(self, seconds: Fraction) -> None:
        """Let the sound end at `seconds`, with silence behind it or without its rest, and flush the encoder."""
        left = max(0, int(-(-seconds * self.rate // 1)) - self._written)  # upwards: nothing is cut of a whole clip
        self._fill(left)
        self._waiting = self._waiting[:left]
        self._waiting = np.pad(self._waiting, ((0, left - len(self._waiting)), (0, 0)))
        while len(self._waiting):
            check_cancelled()
            self._encode(min(AAC_FRAME, len(self._waiting)))
        self._container.mux(self._stream.encode(None))

    def _fill(self, count: int) -> bool:
        while len(self._waiting) < count:
            block = next(self._blocks, None)
            if block is None:
                return False
            self._waiting = np.concatenate([self._waiting, block])
        return True

    def _encode(self, count: int) -> None:
        samples, self._waiting = self._waiting[:count], self._waiting[count:]
        planes = np.ascontiguousarray(np.clip(samples, -1, 1).T)
        self._container.mux(self._stream.encode(_frame(planes, "fltp", self.channels, self.rate, self._written)))
        self._written += count


def _at_most_stereo(audio: Audio) -> Iterator[NDArray[np.float32]]:
    blocks = [audio.samples[place : place + BLOCK] for place in range(0, len(audio.samples), BLOCK)]
    if audio.channels <= 2:
        yield from blocks
        return
    weights = stereo_weights(audio.channels)
    weights /= max(1.0, *(float(np.abs(block @ weights).max()) for block in blocks))
    yield from (block @ weights for block in blocks)


def _frame(samples: NDArray[Any], kind: str, channels: int, rate: int, place: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(samples, format=kind, layout=LAYOUTS[channels])
    frame.sample_rate = rate
    frame.pts = place
    frame.time_base = Fraction(1, rate)
    return frame
