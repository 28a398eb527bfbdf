"""The language of the page, which every widget follows while it is shown.

A widget's words are in `words/<widget>.json` beside its module, each text in every language. A test finds these files
and asks for every language.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import traitlets

from wanavatar_lab.requests.field_spec import LANGUAGES, Words

NAMES = {"en": "English", "ko": "한국어", "zh": "中文"}


def read_words(module: str, table: str) -> dict[str, Words]:
    """The words of a widget: key → its text in each language.

    Args:
        module: `__file__` of the module whose folder has the folder `words`.
        table: name of the JSON file in it, without `.json`.
    """
    words: dict[str, Words] = json.loads((Path(module).parent / "words" / f"{table}.json").read_text(encoding="utf-8"))
    return words


class Language(traitlets.HasTraits):
    """Which language is shown; there is one for all widgets of a kernel, `language`."""

    code = traitlets.Enum(LANGUAGES, default_value="en")

    def of(self, words: Words) -> str:
        """The text of `words` in the language that is shown."""
        return words[self.code]

    def follow(self, show: Callable[[], None]) -> Callable[[], None]:
        """Call `show` now and whenever the language changes; returns what ends that."""

        def changed(_: object) -> None:
            show()

        show()
        self.observe(changed, "code")

        def end() -> None:
            with suppress(ValueError):  # ended before: widgets are closed by their owner and again by __del__
                self.unobserve(changed, "code")

        return end


language = Language()
