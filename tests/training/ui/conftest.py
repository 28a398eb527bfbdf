"""Each test begins and ends in English."""

from collections.abc import Iterator

import pytest

from wanavatar_lab.ui.language import language


@pytest.fixture(autouse=True)
def in_english() -> Iterator[None]:
    language.code = "en"
    yield
    language.code = "en"
