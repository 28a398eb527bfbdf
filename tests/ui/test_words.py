"""Every word that people read is there in every language."""

import importlib
import pkgutil
import re

import pytest

from wanavatar_lab import ui
from wanavatar_lab.requests import LANGUAGES

MODULES = [info.name for info in pkgutil.walk_packages(ui.__path__, f"{ui.__name__}.")]
TABLES = [name for name in MODULES if hasattr(importlib.import_module(name), "WORDS")]
SCRIPTS = {"ko": re.compile("[가-힣]"), "zh": re.compile("[一-鿿]")}
NAMES = re.compile(r"\b(LoRAs?|Python|CLI|Papermill|REST)\b")  # the same everywhere
LETTER = re.compile(r"[A-Za-z]{2}")


def placeholders(text: str) -> list[str]:
    return sorted(re.findall(r"\{\w*\}", text))


def test_there_are_tables() -> None:
    assert len(TABLES) >= 8


@pytest.mark.parametrize("module", TABLES)
def test_a_table_has_every_language(module: str) -> None:
    for key, words in importlib.import_module(module).WORDS.items():
        assert list(words) == list(LANGUAGES), key
        assert all(text.strip() for text in words.values()), key
        assert len({tuple(placeholders(text)) for text in words.values()}) == 1, key
        for code, script in SCRIPTS.items():
            plain = NAMES.sub("", re.sub(r"\{\w*\}", "", words[code]))
            assert script.search(plain) or not LETTER.search(plain), f"{key} is not in {code}: {words[code]}"
