"""The language of the page, which every widget follows while it is shown.

Words are tables of a text in each language, `requests.spec.Words`, as the requests have them. A module of widgets keeps
its own words beside it in a table named `WORDS`; a test finds all of these and asks for every language.
"""

from collections.abc import Callable
from contextlib import suppress

import traitlets

from wanavatar_lab.requests.field_spec import LANGUAGES, Words

NAMES = {"en": "English", "ko": "한국어", "zh": "中文"}


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
