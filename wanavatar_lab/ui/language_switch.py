"""The language menu: all widgets of the kernel follow it, and what was typed stays."""

import traitlets

from wanavatar_lab.ui.language import NAMES, language, read_words
from wanavatar_lab.ui.widget import LabWidget, script, styles


class LanguageSwitch(LabWidget):
    """A native menu of the languages, each by its own name.

    Attributes:
        code: the language shown; setting it switches all widgets of this kernel.
    """

    _esm = script("language_switch")
    _css = styles()
    WORDS = read_words(__file__, "language_switch")

    code = traitlets.Unicode("en").tag(sync=True)
    names = traitlets.Dict(NAMES).tag(sync=True)

    def __init__(self) -> None:
        super().__init__(code=language.code)
        self.observe(self._switch, "code")

    def show_words(self) -> None:
        """Put every text into the language shown, and follow a switch made elsewhere."""
        super().show_words()
        self.code = language.code

    def _switch(self, change: dict[str, str]) -> None:
        if change["new"] in NAMES:
            language.code = change["new"]
