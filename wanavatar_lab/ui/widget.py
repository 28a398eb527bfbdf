"""What the widgets of our own share: plain scripts without a build, and words that follow the language."""

from pathlib import Path
from typing import Any, ClassVar

import anywidget
import traitlets

from wanavatar_lab.requests import Words
from wanavatar_lab.ui.language import language

STATIC = Path(__file__).parent / "static"


def script(*names: str) -> str:
    """One ES module from files of `static/`, the last of which exports the view.

    A browser gets a widget's script as one text, which therefore cannot import its neighbours.
    """
    return _joined(("urls", "elements", *names), ".js")


def styles(*names: str) -> str:
    """One style sheet from files of `static/`, after the theme."""
    return _joined(("theme", *names), ".css")


def _joined(names: tuple[str, ...], suffix: str) -> str:
    return "\n".join((STATIC / f"{name}{suffix}").read_text(encoding="utf-8") for name in names)


class LabWidget(anywidget.AnyWidget):
    """A widget of this package.

    Attributes:
        words: the texts of the view in the language that is shown, by name.
        lang: that language.
    """

    WORDS: ClassVar[dict[str, Words]] = {}

    words = traitlets.Dict().tag(sync=True)
    lang = traitlets.Unicode("en").tag(sync=True)

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self._unfollow = language.follow(self.show_words)

    def show_words(self) -> None:
        """Put every text into the language that is shown; a class whose texts depend on more adds to this."""
        with self.hold_sync():
            self.lang = language.code
            self.words = {name: language.of(words) for name, words in self.WORDS.items()}

    def close(self) -> None:
        """End the widget; it follows the language no more."""
        # also called by __del__ of a widget whose __init__ raised
        if getattr(self, "_unfollow", None) is not None:
            self._unfollow()
        super().close()
