"""The frame of a training panel: title, one sentence, the language switch, and texts that follow the language."""

from collections.abc import Sequence
from html import escape

import ipywidgets as widgets

from wanavatar_lab.requests import Words
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.widget import LanguageSwitch, Look, Recorded


class TrainingPanel(Recorded, widgets.VBox):
    """A panel; a subclass puts its texts into `show_words`, which is called now and at every change of the language.

    Args:
        parts: below the head.
        head: title and purpose; a panel without one is part of another.
    """

    def __init__(self, parts: Sequence[widgets.Widget], head: tuple[Words, Words] | None = None) -> None:
        self._head, self._title = head, widgets.HTML(_dom_classes=["wl-panel-title"])
        heads = [widgets.HBox([self._title, LanguageSwitch()], _dom_classes=["wl-panel-head"])] if head else []
        super().__init__([Look(), *heads, *parts], _dom_classes=["wl-panel"])
        self._unfollow = language.follow(self._translate)

    def show_words(self) -> None:
        """Write every text in the current language."""

    def close(self) -> None:
        """Close the panel with its parts; what it started continues."""
        if unfollow := self.__dict__.pop("_unfollow", None):  # ipywidgets closes a widget once more when it is deleted
            unfollow()
            for part in self.children:
                part.close()
        super().close()

    def _translate(self) -> None:
        if self._head:
            title, says = (escape(language.of(words)) for words in self._head)
            self._title.value = f'<div lang="{language.code}"><h3>{title}</h3><p>{says}</p></div>'
        self.show_words()
