"""The switch for the language of the page; every widget follows it, and what was typed stays."""

from typing import ClassVar

import traitlets

from wanavatar_lab.requests import Words
from wanavatar_lab.ui.language import NAMES, language, read_words
from wanavatar_lab.ui.widget import LabWidget, script, styles

WORDS = read_words(__file__, "language_switch")


class LanguageSwitch(LabWidget):
    """A native choice of the languages, each by its own name.

    Attributes:
        code: the language that is shown; setting it switches all widgets of this kernel.
    """

    _esm = script("language_switch")
    _css = styles()
    WORDS: ClassVar[dict[str, Words]] = WORDS

    code = traitlets.Unicode("en").tag(sync=True)
    names = traitlets.Dict(NAMES).tag(sync=True)

    def __init__(self) -> None:
        super().__init__(code=language.code)
        self.observe(self._switch, "code")

    def show_words(self) -> None:
        """Also follow a switch that was made elsewhere."""
        super().show_words()
        self.code = language.code

    def _switch(self, change: dict[str, str]) -> None:
        if change["new"] in NAMES:
            language.code = change["new"]
