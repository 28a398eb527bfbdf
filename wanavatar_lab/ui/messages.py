"""Error messages in the language shown.

Errors are raised in English, wherever they are: in another process, or in a run of last week. `words/messages.json` has
their texts with names for what varies, and `in_language` finds the text that a message was made from. Parts of messages
that are texts themselves, such as "an integer from 1 to 12", are in `words/phrases.json`. What is in neither stays in
English.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from wanavatar_lab.errors import LabError
from wanavatar_lab.ui.language import WordTable, language, read_words, stage_name

MESSAGES, PHRASES = read_words(__file__, "messages"), read_words(__file__, "phrases")
# of what varies, these are phrases; all others but stages are names, numbers and paths, which stay as they are
OF_PHRASES = frozenset(("allowed", "advice", "format", "kind", "how", "more", "phrase"))
_VARIES = re.compile(r"\{(\w+)\}")
# which item of a list, and which of its fields, such as [0].name, or a field alone
_PLACE = re.compile(r"((?:\[\d+\][\w.]*|[a-z][a-z0-9_]*): )(.+)", re.DOTALL)


def in_language(message: str) -> str:
    """A message, or several joined by "; ", in the language shown; what the tables do not know stays as it is."""
    return message if language.code == "en" else "; ".join(_several(message, language.code))


@contextmanager
def noticed(widget: Any, fault: str = "") -> Iterator[None]:
    """Do what a person asks for; an error of it becomes the widget's notice, which is `fault` until then."""
    widget.notice = fault
    try:
        yield
    except (LabError, OSError) as error:
        widget.notice = in_language(str(error))


def add_messages(module: str, table: str) -> None:
    """Let `in_language` know the messages of one more table, such as what a preparation says of a clip.

    Args:
        module, table: as for `read_words`.
    """
    _TABLES["messages"] |= {f"{table}.{key}": words for key, words in read_words(module, table).items()}
    _patterns.cache_clear()


def _several(message: str, code: str) -> Iterator[str]:
    """The messages that were joined: each is the longest beginning that is known; what is left of them as it is."""
    pieces = message.split("; ")
    for count in range(len(pieces), 0, -1):
        first = "; ".join(pieces[:count])
        place, known = "", _in_table("messages", first, code)
        if known is None and (placed := _PLACE.fullmatch(first)):
            place, known = placed[1], _in_table("messages", placed[2], code)
        if known is not None:
            yield f"{place}{known}"
            if count < len(pieces):
                yield from _several("; ".join(pieces[count:]), code)
            return
    yield message


def _in_table(name: str, text: str, code: str) -> str | None:
    """A text of a table with what varies in it; None where the table does not have it."""
    for pattern, key in _patterns(name):
        if found := pattern.fullmatch(text):
            values = found.groupdict()
            for part in OF_PHRASES & values.keys():
                values[part] = _in_table("phrases", values[part], code) or values[part]
            if "stage" in values:  # its identifier, or its name where the message was made for a form
                values["stage"] = stage_name(values["stage"])
            return _TABLES[name][key][code].format(**values)
    return None


_TABLES: dict[str, WordTable] = {"messages": MESSAGES, "phrases": PHRASES}


@cache
def _patterns(name: str) -> list[tuple[re.Pattern[str], str]]:
    """The English texts of a table as patterns, with their keys; those with the most letters of their own are first."""
    texts = {key: words["en"] for key, words in _TABLES[name].items()}
    keys = sorted(texts, key=lambda key: -len(_VARIES.sub("", texts[key])))
    return [(re.compile(_pattern(texts[key]), re.DOTALL), key) for key in keys]


def _pattern(text: str) -> str:
    parts = _VARIES.split(text)  # texts and names by turns
    kinds = {"quoted": "'[^']*'", **dict.fromkeys(("low", "high", "step"), r"-?[\d.]+(?:e[+-]?\d+)?")}
    return "".join(
        f"(?P<{part}>{kinds.get(part, '.+?')})" if index % 2 else re.escape(part) for index, part in enumerate(parts)
    )
