"""A text becomes a voice.

Who speaks is in the profile's folder: VoxCPM2 (`voxcpm2.py`), or a table of espeak-ng's voices (`espeak.py`). Either
gives mono samples; here they get their level and become a file.
"""

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wanavatar_lab import media
from wanavatar_lab.profiles import Profile
from wanavatar_lab.requests import TextToSpeech
from wanavatar_lab.runs.status import Artifact
from wanavatar_lab.settings import read_settings
from wanavatar_lab.stages import espeak
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.tools.loudness import SHORTEST, levelled, loudness_of
from wanavatar_lab.weights import append_download_command, missing_weights

FILE = "voice.wav"
LOUDNESS, PEAK = -20.0, -1.0  # LUFS and dBTP, as a podcast is mastered
END = 0.3  # seconds of silence at the end, at least, in which the mouth of a talking clip closes


class Speaker(Protocol):
    """What speaks; the worker's model cache keeps it.

    Attributes:
        fingerprint: of its weights, for the manifest.
    """

    fingerprint: dict[str, str]

    def speak(self, request: TextToSpeech, context: StageContext) -> tuple[NDArray[np.float32], int, dict[str, Any]]:
        """Samples [T] of any level, their rate in Hz, and facts for the manifest."""


def load(profile: Profile, device: str) -> Speaker:
    """What speaks in a profile.

    Raises:
        WeightsError: it is missing or damaged; with the command that brings it.
        LabError: the package that speaks is not installed.
    """
    folder = profile.weights(TextToSpeech.stage, read_settings().weights_dir)
    if not folder.is_dir():
        raise missing_weights(TextToSpeech.stage, folder)
    with append_download_command(folder):
        if (folder / espeak.TABLE).is_file():
            return espeak.Espeak(folder)
        from wanavatar_lab.stages.voxcpm2 import VoxCPM2  # imports torch

        return VoxCPM2(folder, device)


def run(request: TextToSpeech, models: Speaker, context: StageContext) -> list[Artifact]:
    """Speak the text.

    Raises:
        MediaError: the recording cannot be read.
        LabError: nothing was spoken.
        Cancelled: the run was cancelled.
    """
    samples, rate, facts = models.speak(request, context)
    voice = finished(samples, rate)
    media.write_audio(context.folder / FILE, voice, metadata=context.metadata(request, models.fingerprint))
    context.record(
        weights=models.fingerprint,
        language=request.spoken_language(),
        sample_rate=rate,
        seconds=round(voice.seconds, 3),
        **facts,
    )
    return [Artifact(kind=TextToSpeech.artifact, path=FILE)]


def finished(samples: NDArray[np.float32], rate: int) -> media.Audio:
    """Speech [T] at `LOUDNESS`, or below it where its true peak would exceed `PEAK`, and silent at its end.

    Silence stays as it is. A word of less than 0.1 s gets more silence, so that its loudness can be measured.
    """
    end = max(round(END * rate), math.ceil(SHORTEST * rate) - len(samples))
    voice = media.Audio(np.pad(samples, (0, end))[:, None], rate)
    return levelled(voice, loudness_of(voice), loudness=LOUDNESS, peak=PEAK)[0]
