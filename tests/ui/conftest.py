"""Every test begins in English."""

from collections.abc import Iterator

import pytest

from tests.queue_for_tests import queue_settings_fixture, shared_queue_fixture
from wanavatar_lab.ui.language import language

__all__ = ["queue_settings_fixture", "shared_queue_fixture"]


@pytest.fixture(autouse=True)
def english() -> Iterator[None]:
    language.code = "en"
    yield
    language.code, language.settled = "en", False
