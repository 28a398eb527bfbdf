"""The button of a voice that separates it from music, with a stand-in for audio-separator: a high-pass filter."""

import asyncio
from pathlib import Path

import pytest

from tests.queue_for_tests import QueueUnderTest, eventually, queue_fixture, queue_settings_fixture
from tests.tools.separator import HUM, VOICE, loudness, recording, separator
from tests.ui.looking import alerts, named, text
from wanavatar_lab import jobs
from wanavatar_lab.requests import SpeechToVideo
from wanavatar_lab.requests.tools import INSTALL_SEPARATE
from wanavatar_lab.tools.vocals import MODEL
from wanavatar_lab.ui.form import Form
from wanavatar_lab.ui.language import language

__all__ = ["queue_fixture", "queue_settings_fixture", "separator"]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path))
    return tmp_path


def form(voice: Path | None = None) -> Form:
    return Form(SpeechToVideo, profile="pocket", audio=str(voice) if voice else None)


def test_without_the_extra_it_says_what_to_install() -> None:
    made = form()
    assert INSTALL_SEPARATE not in text(made)  # most voices need no separation
    named(made, "Separate the voice").click()
    assert f"To separate a voice from music, install the extra: {INSTALL_SEPARATE}" in text(made)
    language.code = "zh"
    assert "请先安装" in text(made)


def test_the_voice_becomes_what_is_chosen(place: Path, queue: QueueUnderTest, separator: Path) -> None:
    song = recording(place / "song.wav")
    made = form(song)
    assert INSTALL_SEPARATE not in text(made)
    button = named(made, "Separate the voice")
    button.click()
    voice = Path(made.controls["audio"].value)
    assert voice.name == "audio.wav" and voice.parent.parent == queue.runs_dir
    assert loudness(voice, VOICE) == pytest.approx(loudness(song, VOICE), rel=0.1)
    assert loudness(voice, HUM) < 0.01 * loudness(song, HUM)
    assert (button.description, button.disabled) == ("Separate the voice", False)
    again = form(recording(place / "copy.wav"))
    named(again, "Separate the voice").click()
    assert again.controls["audio"].value == str(voice)
    assert separator.read_text() == f"{MODEL}\n" and len(jobs.list_jobs()) == 1  # nothing is done twice


def test_what_goes_wrong_stands_at_the_field(place: Path, queue: QueueUnderTest, separator: Path) -> None:
    quiet, missing = recording(place / "quiet.wav", 0.0001), place / "nothing.wav"
    for path, words in ((quiet, "found no voice in it"), (missing, "nothing.wav")):
        made = form(path)
        named(made, "Separate the voice").click()
        assert words in alerts(made)
        assert made.controls["audio"].value == str(path)


def test_a_second_click_cancels_it(place: Path, queue: QueueUnderTest, separator: Path) -> None:
    async def clicked_twice() -> Form:
        made = form(recording(place / "long.wav", seconds=120))
        button = named(made, "Separate the voice")
        button.click()
        await asyncio.sleep(0)
        assert button.description == "Cancel separation"
        while not (listed := jobs.list_jobs()) or not listed[0].run.status().step:
            await asyncio.sleep(0.05)
        button.click()
        while button.description != "Separate the voice":
            await asyncio.sleep(0.05)
        return made

    separator.parent.mkdir(parents=True)
    (separator.parent / "slow").touch()
    made = asyncio.run(clicked_twice())
    (job,) = jobs.list_jobs()
    assert eventually(lambda: job.status().ended) and job.status().state == "cancelled"
    assert made.controls["audio"].value == str(place / "long.wav") and "was cancelled" in alerts(made)


def test_nothing_happens_where_nothing_is_chosen(separator: Path) -> None:
    made = form()
    before = alerts(made)
    named(made, "Separate the voice").click()
    assert alerts(made) == before and not separator.exists()
