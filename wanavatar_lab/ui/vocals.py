"""The voice of a recording without music and noise, where the extra `separate` is installed.

    .venv/bin/uv pip install -e '.[separate]'

audio-separator does it in a process of its own, `python -m wanavatar_lab.ui.vocals RECORDING VOICE.wav`, which
downloads its model once, into `separate` in the weights folder, and needs the program ffmpeg on PATH.
"""

import asyncio
import hashlib
import importlib
import importlib.util
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import ipywidgets as widgets

from wanavatar_lab.errors import LabError
from wanavatar_lab.files import whole_file
from wanavatar_lab.settings import read_settings
from wanavatar_lab.ui.elements import bare, shared, small
from wanavatar_lab.ui.language import read_words
from wanavatar_lab.ui.served_files import uploads_folder
from wanavatar_lab.ui.widget import LabBox, start

if TYPE_CHECKING:
    from wanavatar_lab.ui.file_field import FileControl

MODEL = "Kim_Vocal_2.onnx"  # of MDX-Net, 67 MB: of a song it keeps the voice, of speech the speaker
INSTALL = ".venv/bin/uv pip install -e '.[separate]'"
WORDS = read_words(__file__, "vocals")


async def separate(recording: Path | str) -> Path:
    """Write the voice of a recording beside the uploads; the same recording is separated once.

    Raises:
        LabError: it cannot be done; the text says why.
    """
    recording = Path(recording)
    with open(recording, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:8]
    out = uploads_folder() / f"{recording.stem}-voice-{digest}.wav"
    if out.is_file():
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "wanavatar_lab.ui.vocals", str(recording), str(out),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        _, errors = await child.communicate()
    except asyncio.CancelledError:
        child.kill()
        raise
    if child.returncode:
        last = (errors.decode(errors="replace").strip().splitlines() or ["it gave no reason"])[-1]
        raise LabError(f"The voice of {recording.name} could not be separated: {last}")
    return out


class VoiceButton(LabBox):
    """A button that replaces the recording chosen in a control by its voice; without the extra, what to install."""

    def __init__(self, control: "FileControl") -> None:
        self._control = control
        self._button, self._note, self._asked = bare(widgets.Button), bare(widgets.HTML), False
        super().__init__([self._button, self._note], layout=shared(widgets.Layout))
        self._button.on_click(lambda _: start(self._pressed()))

    def show_words(self) -> None:
        """Put the button and the note into the language shown."""
        self._button.description = WORDS.text("separating" if self._button.disabled else "separate")
        # the style sheet hides an empty text
        self._note.value = small(WORDS.text("missing", command=INSTALL)) if self._asked else ""

    async def _pressed(self) -> None:
        recording = self._control.value
        self._asked = importlib.util.find_spec("audio_separator") is None
        if self._asked:
            self.show_words()
            return
        if not recording or self._button.disabled:
            return
        self._button.disabled = True
        self.show_words()
        try:
            voice = await separate(recording)
        except (LabError, OSError) as error:
            self._control.error = str(error)
        else:
            if self._control.value == recording:  # no other was chosen meanwhile
                self._control.take(str(voice))
        finally:
            self._button.disabled = False
            self.show_words()


def _write_voice(recording: Path, out: Path) -> None:
    from wanavatar_lab import media  # slow to import, and a panel imports this module

    separator_class = importlib.import_module("audio_separator.separator").Separator
    with tempfile.TemporaryDirectory() as scratch:
        sound = Path(scratch) / "recording.wav"
        media.write_audio(sound, media.read_audio(recording))
        separator = separator_class(
            model_file_dir=str(read_settings().weights_dir.absolute() / "separate"),
            output_dir=scratch,
            output_format="WAV",
            output_single_stem="Vocals",
        )
        separator.load_model(model_filename=MODEL)
        if not (made := separator.separate(str(sound))):
            raise LabError(f"{MODEL} found no voice in it.")
        with whole_file(out) as path:
            path.write_bytes((Path(scratch) / os.path.basename(made[0])).read_bytes())


if __name__ == "__main__":
    try:
        _write_voice(Path(sys.argv[1]), Path(sys.argv[2]))
    except (LabError, OSError, RuntimeError, ValueError) as error:
        sys.exit(str(error))
