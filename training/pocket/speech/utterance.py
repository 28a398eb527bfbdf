"""An utterance, the output of a synthesiser: sound and timed phonemes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wanavatar_lab.errors import LabError

RATE = 16_000

_INSTALL = {
    "espeak-ng": "apt-get install -y espeak-ng libespeak-ng1",
    "flite": "apt-get install -y flite",
}


class SpeechToolMissing(LabError):
    """A required speech synthesiser is not installed."""

    def __init__(self, tool: str, why: str) -> None:
        super().__init__(
            f"{tool} is needed to synthesise speech for the toy world, but {why}. "
            f"Install it: `{_INSTALL[tool]}` (Debian, Ubuntu). Only training the pocket models needs it."
        )


@dataclass(frozen=True)
class Phoneme:
    """A phoneme in IPA from `start` to `end` seconds; the empty symbol is a pause."""

    symbol: str
    start: float
    end: float


@dataclass(frozen=True)
class Utterance:
    """Sound `samples`, float32 [T] at `RATE` Hz within -1..1, and its phonemes in order."""

    samples: NDArray[np.float32]
    phonemes: tuple[Phoneme, ...]

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.samples) / RATE
