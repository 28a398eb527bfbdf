"""The voice of a recording without music and noise, where the extra `separate` is installed: a button of a field.

It submits the tool `separate_vocals`, which the worker executes, and takes what that makes.
"""

import asyncio
import importlib.util
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import ipywidgets as widgets

from wanavatar_lab import jobs
from wanavatar_lab.errors import LabError, RunError
from wanavatar_lab.files import sha256_of
from wanavatar_lab.requests import SeparateVocals
from wanavatar_lab.requests.tools import INSTALL_SEPARATE
from wanavatar_lab.runs.run import list_runs
from wanavatar_lab.ui.elements import bare, shared, small
from wanavatar_lab.ui.language import read_words
from wanavatar_lab.ui.widget import LabBox, start

if TYPE_CHECKING:
    from wanavatar_lab.ui.file_field import FileControl

WORDS = read_words(__file__, "vocals")


class VoiceButton(LabBox):
    """A button that replaces the recording chosen in a control by its voice; while that is made, it cancels it.

    Without the extra it says what to install.
    """

    def __init__(self, control: "FileControl") -> None:
        self._control = control
        self._button, self._note, self._asked = bare(widgets.Button), bare(widgets.HTML), False
        self._busy = False
        self._job: jobs.Job | None = None
        super().__init__([self._button, self._note], layout=shared(widgets.Layout))
        self._button.on_click(lambda _: start(self._pressed()))

    def show_words(self) -> None:
        """Put the button and the note into the language shown."""
        self._button.description = WORDS.text("cancel" if self._busy else "separate")
        # the style sheet hides an empty text
        note = WORDS.text("separating") if self._busy else ""
        text = WORDS.text("missing", command=INSTALL_SEPARATE) if self._asked else note
        self._note.value = small(text) if text else ""

    async def _pressed(self) -> None:
        if self._busy:
            if self._job is not None:
                await asyncio.to_thread(self._job.cancel)
            return
        recording = self._control.value
        self._asked = importlib.util.find_spec("audio_separator") is None
        if recording and not self._asked:
            self._busy = True
            self.show_words()
            try:
                voice = await self._separated(str(recording))
                if self._control.value == recording:  # no other was chosen meanwhile
                    self._control.take(voice)
            except (LabError, OSError) as error:
                self._control.error = str(error)
            finally:
                self._busy, self._job = False, None
        self.show_words()

    async def _separated(self, recording: str) -> str:
        """The path of the voice; the same recording is separated once.

        Raises:
            LabError: it cannot be done, or was cancelled; the text says why.
        """
        request = SeparateVocals(media=recording)
        request.check_inputs()
        if (made := await asyncio.to_thread(separated_before, Path(recording))) is not None:
            return made
        self._job = await asyncio.to_thread(jobs.submit, request)
        (voice,) = await self._job.result(progress=False)
        return voice.path


def separated_before(recording: Path) -> str | None:
    """The voice that an earlier run has made of the same recording; None if there is none."""
    digest = sha256_of(recording)
    for run in list_runs():
        if run.stage == SeparateVocals.stage:
            with suppress(RunError, KeyError):  # it has not ended, or its folder is damaged or gone
                made = run.status().artifacts
                if made and run.manifest()["inputs"]["media"]["sha256"] == digest and Path(made[0].path).is_file():
                    return made[0].path
    return None
