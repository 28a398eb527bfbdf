"""What is refused before anything is made."""

import asyncio
from pathlib import Path

import pytest

from training.pocket import drawn_speech
from training.ui.person import Person
from training.ui.preparing import SHIPPED, SHIPPED_SECONDS, encode_clips, prepare_clips
from wanavatar_lab.errors import LabError, RequestError


def test_only_a_profile_that_draws_people_does_without_videos(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="videos: must be a folder of videos of one person"):
        asyncio.run(prepare_clips(Person(tmp_path), profile="full"))


def test_a_drawn_person_has_as_many_clips_as_there_is_speech_for(tmp_path: Path) -> None:
    assert (SHIPPED, SHIPPED_SECONDS) == (drawn_speech.SHIPPED, drawn_speech.SHIPPED_SECONDS)
    with pytest.raises(RequestError, match=r"clips: must be a number from 2 to 15 \(got 99\)[\s\S]*seconds: must be "):
        asyncio.run(prepare_clips(Person(tmp_path), profile="pocket", clips=99, seconds=1))
    assert not list(tmp_path.iterdir())


def test_nothing_is_encoded_before_it_is_prepared(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="Run notebook 10_prepare first"):
        asyncio.run(encode_clips(Person(tmp_path), profile="pocket", prompt="A person speaks."))
