"""The language of the page, and the texts of widgets in it.

The texts of a module are in `words/<table>.json` beside it: key → text in each language. A test finds these files and
asks for every language.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import traitlets

from wanavatar_lab.files import printable
from wanavatar_lab.requests import LANGUAGES, STAGE_REQUESTS, Words

NAMES = {"en": "English", "ko": "한국어", "zh": "中文"}


class Language(traitlets.HasTraits):
    """The language shown. All widgets of a kernel share one, `language`.

    Attributes:
        code: the language; one of `LANGUAGES`.
        settled: whether a person, a program or the browser has chosen it; until then it is the default.
    """

    code = traitlets.Enum(LANGUAGES, default_value="en")
    settled = traitlets.Bool(False)

    @traitlets.observe("code")
    def _chosen(self, _: object) -> None:
        self.settled = True

    def of(self, words: Words) -> str:
        """The text of `words` in this language."""
        return words[self.code]

    def follow(self, show: Callable[[], None]) -> Callable[[], None]:
        """Call `show` now and at every change of the language; returns a function that stops this, once."""

        def changed(_: object) -> None:
            show()

        show()
        self.observe(changed, "code")

        return lambda: self.unobserve(changed, "code")


language = Language()


class WordTable(dict[str, Words]):
    """Texts by key, each in every language."""

    def text(self, key: str, **values: Any) -> str:
        """A text in the language shown, with `values` for its placeholders."""
        return language.of(self[key]).format(**values)


def read_words(module: str, *tables: str) -> WordTable:
    """The texts of one or more tables.

    Args:
        module: `__file__` of the module beside which the folder `words` is.
        tables: names of JSON files in it, without `.json`; later ones override equal keys of earlier ones.
    """
    words = WordTable()
    for table in tables:
        words |= json.loads((Path(module).parent / "words" / f"{table}.json").read_text(encoding="utf-8"))
    return words


def stage_name(stage: str) -> str:
    """The name of a stage in the language shown; of a stage that is not registered, its identifier."""
    known = STAGE_REQUESTS.get(stage)
    return language.of(known.labels) if known else stage


def shorten(text: str, most: int) -> str:
    """The text, cut to `most` characters with an ellipsis where it is longer; of any bytes a page can receive."""
    text = printable(text)
    return text if len(text) <= most else text[: most - 1] + "…"


def matches(query: str, *texts: str) -> bool:
    """Whether each word of the query is in the texts, in any case."""
    text = "\n".join(texts).casefold()
    return all(word in text for word in query.casefold().split())
