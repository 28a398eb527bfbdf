"""Loudness by EBU R 128 (ITU-R BS.1770-4), measured with FFmpeg's filter `ebur128`, and brought to a target."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.filter
import numpy as np

from wanavatar_lab.errors import MediaError, check_cancelled
from wanavatar_lab.media import Audio, read_audio, write_audio
from wanavatar_lab.media.audio import BLOCK, LAYOUTS
from wanavatar_lab.tools.sound import Progress, with_channels
from wanavatar_lab.tools.video import rewrite_with_sound

SILENCE = -70.0  # LUFS: the absolute gate of BS.1770; what is below is not measured
SHORTEST = 0.4  # seconds: one block of the measurement
NEAR = 0.05  # LU and dB: a difference that is not worth a word

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loudness:
    """The loudness of a recording.

    Attributes:
        integrated: of the whole, in LUFS; None for silence, and for less than 0.4 s.
        range: the loudness range, in LU (EBU Tech 3342).
        true_peak: the largest level between the samples too, in dBTP; None for digital silence.
    """

    integrated: float | None
    range: float
    true_peak: float | None


@dataclass(frozen=True)
class Normalized:
    """What `normalize_loudness` did.

    Attributes:
        before: of the file as it was; of surround sound that becomes a video's, after it was mixed to two channels.
        gain: what every sample was multiplied by, in dB.
        after: of the result, before its samples are rounded to 16 bits or encoded.
    """

    before: Loudness
    gain: float
    after: Loudness


def measure_loudness(media: Path | str) -> Loudness:
    """The loudness of a recording, or of a video's sound.

    Raises:
        MediaError: there is no sound, or it cannot be read.
    """
    return loudness_of(read_audio(media))


def normalize_loudness(
    media: Path | str,
    out: Path | str,
    *,
    loudness: float = -23.0,
    peak: float = -1.0,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> Normalized:
    """Multiply the sound by one gain, so that its integrated loudness is the target; the dynamics stay.

    Where the true peak would pass its limit the gain is smaller, and a warning says by how much the target is missed.

    Args:
        out: .wav or .flac for sound, .mp4 for a video, whose frames are encoded anew.
        loudness: of the result, in LUFS.
        peak: most true peak of the result, in dBTP.

    Raises:
        MediaError: there is no sound, or it is silent or shorter than 0.4 s; or the file cannot be read or written.
        DiskFull: there is no room.
    """
    sound, is_video = read_audio(media), Path(out).suffix.lower() == ".mp4"
    if is_video:  # which is written with two channels at most, whose loudness is not that of surround sound
        sound = with_channels(sound, min(2, sound.channels))
    before = loudness_of(sound)
    if before.integrated is None:
        raise MediaError(
            f"{media} has no loudness to measure: it lasts {sound.seconds:.2f} s and is silent or shorter than "
            f"{SHORTEST:g} s. Give a longer or louder recording."
        )
    louder, gain = levelled(sound, before, loudness=loudness, peak=peak)
    if is_video:
        rewrite_with_sound(media, out, louder, metadata=metadata, progress=progress)
    else:
        write_audio(out, louder, metadata=metadata)
    return Normalized(before, round(gain, 3), loudness_of(louder))


def levelled(sound: Audio, before: Loudness, *, loudness: float, peak: float) -> tuple[Audio, float]:
    """Sound in memory multiplied by one gain, so that its integrated loudness is the target.

    Where the true peak would pass its limit the gain is smaller, and a warning says by how much the target is missed.

    Args:
        before: the loudness of the sound; without one it stays as it is.
        loudness: of the result, in LUFS.
        peak: most true peak of the result, in dBTP.

    Returns:
        The result, and the gain in dB.
    """
    if before.integrated is None or before.true_peak is None:
        return sound, 0.0
    gain = loudness - before.integrated
    allowed = peak - before.true_peak
    if gain > allowed + NEAR:
        _log.warning(
            "The loudness becomes %.1f LUFS and misses its target of %g LUFS by %.1f LU: more gain would lift the true "
            "peak above %g dBTP.",
            before.integrated + allowed,
            loudness,
            gain - allowed,
            peak,
        )
    gain = min(gain, allowed)
    return Audio(sound.samples * np.float32(10 ** (gain / 20)), sound.rate, sound.missing), gain


def loudness_of(sound: Audio) -> Loudness:
    """The loudness of sound in memory."""
    layout = LAYOUTS[sound.channels]
    graph = av.filter.Graph()
    source = graph.add_abuffer(format="fltp", sample_rate=sound.rate, layout=layout, time_base=Fraction(1, sound.rate))
    meter, sink = graph.add("ebur128", "metadata=1:peak=true:framelog=quiet"), graph.add("abuffersink")
    source.link_to(meter)
    meter.link_to(sink)
    graph.configure()
    facts: dict[str, str] = {}
    for place in range(0, len(sound.samples), BLOCK):
        check_cancelled()
        block = np.ascontiguousarray(sound.samples[place : place + BLOCK].T)
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = sound.rate, place, Fraction(1, sound.rate)
        graph.push(frame)
        facts |= _last_of(graph)
    graph.push(None)
    facts |= _last_of(graph)
    integrated = float(facts.get("lavfi.r128.I", SILENCE))
    # the filter counts its peaks in whole blocks of 0.1 s: what is left at the end it says of no frame
    largest = max(float(facts.get("lavfi.r128.true_peak", 0.0)), float(np.abs(sound.samples).max()))
    return Loudness(
        integrated if integrated > SILENCE and sound.seconds >= SHORTEST else None,
        float(facts.get("lavfi.r128.LRA", 0.0)),
        round(20 * math.log10(largest), 2) if largest else None,
    )


def _last_of(graph: av.filter.Graph) -> dict[str, str]:
    """What the filter says in the last of the frames that it has ready."""
    facts: dict[str, str] = {}
    while True:
        try:
            facts = dict(graph.pull().metadata) or facts
        except (av.BlockingIOError, av.EOFError):
            return facts
