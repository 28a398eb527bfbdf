"""Every test begins in English."""

from collections.abc import Iterator

import pytest

from tests.lane_for_tests import lane_settings_fixture, shared_lane_fixture
from wanavatar_lab.ui.language import language

__all__ = ["lane_settings_fixture", "shared_lane_fixture"]


@pytest.fixture(autouse=True)
def english() -> Iterator[None]:
    language.code = "en"
    yield
    language.code = "en"
