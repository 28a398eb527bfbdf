"""The voice of a recording without music and noise, by audio-separator, which the extra `separate` installs.

    .venv/bin/uv pip install -e '.[separate]'

It downloads its model once, into `separate` in the weights folder, and needs the program ffmpeg on PATH.
"""

import importlib
import importlib.util
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanavatar_lab.errors import LabError, MediaError, check_cancelled
from wanavatar_lab.media import Audio, MediaInfo, probe, read_audio, write_audio
from wanavatar_lab.requests.tools import INSTALL_SEPARATE
from wanavatar_lab.settings import read_settings
from wanavatar_lab.tools.sound import Progress

MODEL = "Kim_Vocal_2.onnx"  # of MDX-Net: of a song it keeps the voice, of speech the speaker
MODEL_BYTES = 67_000_000
RATE = 44_100  # Hz, of the model
# A part is what is done between two looks at a cancellation: on two cores about as long as it lasts. The model sees 6 s
# at a time, so that what is further from a part's end than its overlap does not change by the cut.
PART_SECONDS, OVERLAP_SECONDS = 30, 3
FAINT = 10 ** (-60 / 20)  # of full scale: below -60 dBFS there is no voice


class VocalSeparator:
    """The separator with its model loaded, to be used for several recordings.

    Raises:
        LabError: the extra or ffmpeg is not installed, or the model cannot be fetched or read.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec("audio_separator") is None:
            raise LabError(f"Separating vocals needs the extra `separate`. Install it: {INSTALL_SEPARATE}")
        models = read_settings().weights_dir.absolute() / "separate"
        # beside the model and not in a folder of this object, which would stay when the worker is killed
        self._scratch = models / "parts"
        separator_class = importlib.import_module("audio_separator.separator").Separator
        try:
            self._separator: Any = separator_class(
                log_level=logging.WARNING,
                model_file_dir=str(models),
                output_dir=str(self._scratch),
                output_format="WAV",
                output_single_stem="Vocals",
                # full scale, which every part is brought to and back from: else each part would get a gain of its own
                normalization_threshold=1.0,
            )
            self._separator.load_model(model_filename=MODEL)
        except FileNotFoundError as error:
            if shutil.which("ffmpeg") is None:
                raise LabError(
                    "Separating vocals needs the program ffmpeg, which is not on PATH. Install it (on Debian: apt-get "
                    "install ffmpeg)."
                ) from error
            raise
        except (OSError, RuntimeError, ValueError) as error:
            raise LabError(f"The model {MODEL} of audio-separator cannot be loaded: {error}") from error

    def separate(self, sound: Audio, progress: Progress | None = None) -> Audio:
        """The voice: as long as `sound`, at 44,100 Hz, in stereo.

        Args:
            sound: at 44,100 Hz.

        Raises:
            LabError: there is no voice in it.
        """
        length, part, overlap = len(sound.samples), PART_SECONDS * RATE, OVERLAP_SECONDS * RATE
        voice = np.zeros((length, 2), np.float32)
        begins = range(0, max(1, length - overlap), part - overlap)
        for done, begin in enumerate(begins):
            check_cancelled()
            if progress is not None:
                progress(done, len(begins))
            found = self._part(sound.samples[begin : begin + part])
            if begin:  # from the part before into this one
                fade = np.linspace(0.0, 1.0, min(overlap, len(found)), dtype=np.float32)[:, None]
                found[: len(fade)] *= fade
                voice[begin : begin + len(fade)] *= 1.0 - fade
                voice[begin + len(fade) : begin + len(found)] = 0.0
            voice[begin : begin + len(found)] += found
        if progress is not None:
            progress(len(begins), len(begins))
        if np.abs(voice).max() < FAINT:
            raise LabError(f"{MODEL} found no voice in it.")
        return Audio(voice, RATE, sound.missing)

    def _part(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """The voice `[T, 2]` of a part `[T, C]`."""
        level = float(np.abs(samples).max())
        if level < FAINT:
            return np.zeros((len(samples), 2), np.float32)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{secrets.token_hex(8)}.wav"  # another worker may use the same folder
            write_audio(path, Audio(samples / np.float32(level), RATE))
            made = [self._scratch / os.path.basename(each) for each in self._separator.separate(str(path))]
        found = [each for each in made if each.is_file()]
        if not found:  # of a part without a voice it may write none
            return np.zeros((len(samples), 2), np.float32)
        voice = read_audio(found[0], rate=RATE).samples[: len(samples)] * np.float32(level)
        for each in found:
            each.unlink()
        voice = np.repeat(voice, 2, axis=1) if voice.shape[1] == 1 else voice
        return np.pad(voice, ((0, len(samples) - len(voice)), (0, 0)))


def separate_vocals(
    media: Path | str,
    out: Path | str,
    *,
    separator: VocalSeparator | None = None,
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> MediaInfo:
    """Write the voice of a recording, or of a video's sound, in stereo at 44,100 Hz.

    Args:
        out: .wav or .flac.
        separator: one that is loaded already; it takes seconds.

    Raises:
        LabError: the extra is not installed, or there is no voice.
        MediaError: there is no sound, or it cannot be read or written.
        DiskFull: there is no room.
    """
    sound = read_audio(media, rate=RATE)
    if sound.channels > 2:
        raise MediaError(f"{media} has {sound.channels} channels; the model reads one or two. Resample it to stereo.")
    write_audio(out, (separator or VocalSeparator()).separate(sound, progress), metadata=metadata)
    return probe(out)
