"""The sound of a file: extracted as it is, or at another rate and with other channels."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from wanavatar_lab.media import Audio, MediaInfo, probe, read_audio, write_audio
from wanavatar_lab.media.audio import stereo_weights

Progress = Callable[[int, int], None]  # what is done, and what there is to do


def extract_audio(
    video: Path | str, out: Path | str, *, metadata: Mapping[str, str] | None = None, progress: Progress | None = None
) -> MediaInfo:
    """Write the sound of a video, or of any file with sound, at its own rate and with its own channels.

    Sound that begins after the picture has silence in front, so that both share their zero.

    Args:
        out: .wav or .flac, of 16 bits.

    Raises:
        MediaError: there is no sound, or it cannot be read or written.
        DiskFull: there is no room.
    """
    write_audio(out, read_audio(video), metadata=metadata)
    return probe(out)


def resample(
    media: Path | str,
    out: Path | str,
    *,
    rate: int = 16_000,
    channels: Literal["keep", "mono", "stereo"] = "keep",
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> MediaInfo:
    """Write the sound of a file at another rate (soxr, HQ), and mixed to one or two channels.

    Args:
        out: .wav or .flac, of 16 bits.
        rate: 8,000 to 192,000 Hz.
        channels: mono as `media.read_audio` mixes it; stereo has mono sound in both channels, and surround sound mixed
            as in ITU-R BS.775, made quieter where the sum would clip.

    Raises:
        MediaError: there is no sound, or it cannot be read or written.
        DiskFull: there is no room.
    """
    sound = read_audio(media, rate=rate, mono=channels == "mono")
    write_audio(out, with_channels(sound, 2) if channels == "stereo" else sound, metadata=metadata)
    return probe(out)


def with_channels(sound: Audio, wanted: int) -> Audio:
    """Sound with so many channels: surround sound is mixed, mono is repeated, and surround channels that it lacks are
    silent.

    Args:
        wanted: 2 to 8, or as many as it has; for mono read it so, since only then channels that cancel each other are
            found.
    """
    samples = sound.samples
    if sound.channels == wanted:
        return sound
    if sound.channels > 2:
        samples = samples @ stereo_weights(sound.channels)
        samples /= max(1.0, float(np.abs(samples).max()))
    if samples.shape[1] == 1:
        samples = np.repeat(samples, 2, axis=1)
    # left and right are the first of every layout
    samples = np.pad(samples, ((0, 0), (0, wanted - samples.shape[1])))
    return Audio(np.ascontiguousarray(samples, np.float32), sound.rate, sound.missing)
