"""A button that downloads a file of this machine, such as a trained LoRA, through the server of the page.

    Download(run / "checkpoint-50" / "lora_weights.safetensors", name="ann.safetensors")

A file that the server does not serve is named instead, with its place: weights are too large for a kernel to send.
"""

import os
from html import escape
from pathlib import Path
from urllib.parse import quote

import traitlets

from wanavatar_lab.errors import LabError
from wanavatar_lab.files import printable
from wanavatar_lab.ui.language import read_words
from wanavatar_lab.ui.record import Record, relative
from wanavatar_lab.ui.served_files import served_path
from wanavatar_lab.ui.widget import LabWidget, script, styles


class Download(LabWidget):
    """The button, with the file's size beside it.

    Args:
        file: the file; None hides the button until `offer`.
        name: of the downloaded file; empty for its own.

    Attributes:
        path: relative to the server's root, "" where it is not served; `version` changes with the file.
        place: the absolute path.

    Raises:
        LabError: the file is gone.
    """

    _esm = script("download")
    _css = styles("download")
    WORDS = read_words(__file__, "download")

    path = traitlets.Unicode("").tag(sync=True)
    version = traitlets.Unicode("").tag(sync=True)
    place = traitlets.Unicode("").tag(sync=True)
    name = traitlets.Unicode("").tag(sync=True)
    size = traitlets.Unicode("").tag(sync=True)

    def __init__(self, file: Path | str | None = None, name: str = "") -> None:
        super().__init__()
        if file is not None:
            self.offer(Path(file), name)

    def offer(self, file: Path, name: str = "") -> None:
        """Offer another file from now on.

        Raises:
            LabError: it is gone.
        """
        try:
            facts = file.stat()
        except OSError as error:
            raise LabError(f"{file} cannot be downloaded: {error.strerror or error}.") from error
        with self.hold_sync():
            self.place = printable(os.path.abspath(file))
            self.path = served_path(file)
            self.name, self.version = name or file.name, str(facts.st_mtime_ns)
            self.size = f"{facts.st_size / 1e6:.1f} MB" if facts.st_size < 1e9 else f"{facts.st_size / 1e9:.2f} GB"

    def record(self) -> Record:
        """A link to the file, and its size."""
        if not self.place:
            return Record()
        target = relative(Path(self.place))
        link = f'<a href="{escape(quote(target), quote=True)}" download="{escape(self.name, quote=True)}">'
        return Record(
            f"<p>{link}{escape(self.name)}</a> · {self.size}<br><code>{escape(self.place)}</code></p>",
            f"{self.place}, {self.size}",
        )
