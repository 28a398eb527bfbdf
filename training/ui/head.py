"""The head of a training panel: title, one sentence, and the language switch."""

from html import escape

import ipywidgets as widgets

from wanavatar_lab.requests import Words
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.language_switch import LanguageSwitch


class Head(widgets.HBox):
    """The head of a panel.

    Args:
        title: of the panel.
        says: its purpose, in a sentence.
    """

    def __init__(self, title: Words, says: Words) -> None:
        self._title, self._says = title, says
        self._text = widgets.HTML(_dom_classes=["wl-panel-title"])
        super().__init__([self._text, LanguageSwitch()], _dom_classes=["wl-panel-head"])
        self._unfollow = language.follow(self._say)

    def close(self) -> None:
        """Close it; it no longer follows the language."""
        self.__dict__.pop("_unfollow", lambda: None)()
        super().close()

    def _say(self) -> None:
        title, says = (escape(language.of(words)) for words in (self._title, self._says))
        self._text.value = f'<div lang="{language.code}"><h3>{title}</h3><p>{says}</p></div>'
