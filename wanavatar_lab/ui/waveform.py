"""A recording with its waveform, on which a part can be chosen: the fields `audio_start` and `audio_duration`."""

import asyncio
from pathlib import Path
from typing import Any

import traitlets

from wanavatar_lab.errors import MediaError
from wanavatar_lab.media import Peaks, probe, read_peaks
from wanavatar_lab.ui.language import read_words
from wanavatar_lab.ui.messages import in_language
from wanavatar_lab.ui.served_files import server_path
from wanavatar_lab.ui.widget import LabWidget, loop_runs, script, start, styles

SOON = 60.0  # seconds of sound; the peaks of more are read in the background
SHORTEST = 0.05  # seconds that are left where both ends are pushed together


class Waveform(LabWidget):
    """A recording.

    Args:
        path: a sound file, or a video with sound, below the server's root.

    Attributes:
        start, end: the chosen part in seconds; at first the whole.
        duration: seconds of the whole.
        error: why a long recording, whose peaks are read in the background, is damaged.

    Raises:
        LabError: the page cannot show the file.
        MediaError: it has no sound, or is damaged.
    """

    _esm = script("wave", "waveform")
    _css = styles("waveform")
    WORDS = read_words(__file__, "waveform")

    path = traitlets.Unicode("").tag(sync=True)
    peaks = traitlets.List(traitlets.Float()).tag(sync=True)
    duration = traitlets.Float(0.0).tag(sync=True)
    start = traitlets.Float(0.0).tag(sync=True)
    end = traitlets.Float(0.0).tag(sync=True)
    error = traitlets.Unicode("").tag(sync=True)

    def __init__(self, path: Path | str) -> None:
        info = probe(path)
        if info.audio_rate is None or info.duration is None:
            raise MediaError(f"{path} has no sound. Give a recording, or a video with sound.")
        super().__init__(path=server_path(path), duration=round(info.duration, 3), end=round(info.duration, 3))
        if info.duration > SOON and loop_runs():
            start(self._draw_later(path))
        else:
            self._draw(read_peaks(path))

    @property
    def audio_start(self) -> float:
        """The field of that name: seconds from the beginning."""
        return round(self.start, 3)

    @property
    def audio_duration(self) -> float | None:
        """The field of that name: seconds, or None to the end."""
        return None if self.end >= self.duration else round(self.end - self.start, 3)

    def choose(self, start: float, duration: float | None) -> None:
        """Choose the part that begins at `start` and lasts `duration` seconds, to the end if None."""
        end = self.duration if duration is None else min(start + duration, self.duration)
        with self.hold_trait_notifications():
            self.start, self.end = start, end

    async def _draw_later(self, path: Path | str) -> None:
        try:
            self._draw(await asyncio.to_thread(read_peaks, path))
        except MediaError as error:
            self.error = in_language(str(error))

    def _draw(self, found: Peaks) -> None:
        whole = self.end >= self.duration
        with self.hold_sync():
            self.peaks, self.duration = found.levels, round(found.duration, 3)  # of the sound, not of the picture
            self.end = self.duration if whole else self.end

    @traitlets.validate("start")
    def _start_within(self, proposal: Any) -> float:
        return float(min(max(proposal["value"], 0.0), max(min(self.end, self.duration) - SHORTEST, 0.0)))

    @traitlets.validate("end")
    def _end_within(self, proposal: Any) -> float:
        return float(max(min(proposal["value"], self.duration), min(self.start + SHORTEST, self.duration)))
