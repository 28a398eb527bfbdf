"""The button that extends a prompt: the command's text is a proposal until a person uses it."""

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests import toy_qwen
from tests.queue_for_tests import is_alive
from tests.ui.looking import NAMED, alerts, named, shown, text, until
from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import ImageToVideo, Request, SpeechToVideo, TextToImage, Upscale
from wanavatar_lab.ui import command
from wanavatar_lab.ui.form import Form
from wanavatar_lab.ui.language import language

SENTENCE = "The woman looks into a lens, and nods."
DOWNLOAD = f"wanavatar-lab weights download {toy_qwen.NAME}"

# a stand-in of the program: keeps what it was told, and prints and ends as a file says
PROGRAM = """#!/bin/sh
cd {folder}
echo "$@" > words
cat > stdin
echo $$ > pid
. ./what_it_does
"""


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    toy_qwen.reciting_model(tmp_path / toy_qwen.NAME, SENTENCE)
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("WANAVATAR_DEVICE", "cpu")
    return tmp_path


@pytest.fixture
def program(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the stand-in, which says `SENTENCE`."""
    path = weights / "program"
    path.write_text(PROGRAM.format(folder=weights))
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    does(weights, f"echo '{json.dumps({'extended': SENTENCE})}'")
    return weights


def does(folder: Path, what: str) -> None:
    (folder / "what_it_does").write_text(what)


def form(prompt: str = "a woman talks", request_class: type[Request] = SpeechToVideo, profile: str = "full") -> Form:
    return Form(request_class, profile=profile, prompt=prompt)


def buttons(made: Form) -> set[str]:
    names = {each.description for each in shown(made) if isinstance(each, NAMED)}
    return names & {"Extend…", "Extending…", "Cancel", "Proposal", "Use", "Discard"}


@pytest.mark.slow  # the program imports torch; what it says to these words is in tests/cli/test_extend_prompt.py
def test_the_command_proposes_and_a_person_uses_what_it_says(weights: Path) -> None:
    made = form()
    named(made, "Extend…").click()
    assert made.controls["prompt"].error == "" and named(made, "Proposal").value == SENTENCE
    assert made.controls["prompt"].value == "a woman talks"
    named(made, "Use").click()
    assert made.controls["prompt"].value == SENTENCE and "prompt" in made.touched
    assert buttons(made) == {"Extend…"}


@pytest.mark.parametrize("use", [True, False])
def test_the_proposal_can_be_edited_and_discarded(program: Path, use: bool) -> None:
    made = form('"hello" --seed\nüber 안녕')
    named(made, "Extend…").click()
    assert (program / "stdin").read_text() == '"hello" --seed\nüber 안녕'
    words = (program / "words").read_text().split()
    assert words[:5] == ["-m", "wanavatar_lab", "extend-prompt", "speech_to_video", "-"]
    assert words[5] == "--seed" and words[6].isdecimal() and words[7:] == ["--json"]
    assert buttons(made) == {"Extend…", "Proposal", "Use", "Discard"}
    named(made, "Proposal").value = "She nods."
    named(made, "Use" if use else "Discard").click()
    assert made.controls["prompt"].value == ("She nods." if use else '"hello" --seed\nüber 안녕')
    assert buttons(made) == {"Extend…"}


def test_cancel_ends_the_process_and_keeps_the_prompt(program: Path) -> None:
    does(program, "exec sleep 600")

    async def person(leave: bool) -> None:
        made = form()
        (program / "pid").unlink(missing_ok=True)
        named(made, "Extend…").click()
        assert buttons(made) == {"Extending…", "Cancel"} and "can take some minutes" in text(made)
        await until(lambda: (program / "pid").is_file() and (program / "pid").read_text().strip())
        pid = int((program / "pid").read_text())
        assert is_alive(pid)
        if leave:
            made.close()
        else:
            named(made, "Cancel").click()
        await until(lambda: not is_alive(pid))
        if not leave:
            await until(lambda: buttons(made) == {"Extend…"})
            assert made.controls["prompt"].value == "a woman talks" and made.controls["prompt"].error == ""

    asyncio.run(person(leave=False))
    asyncio.run(person(leave=True))


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ('echo \'{"error": "There is no room."}\'; exit 1', "There is no room."),
        (
            'echo \'{"error": "prompt: is long", "problems": [{"field": "prompt", "message": "is long"}]}\'; exit 2',
            ">is long<",
        ),
        ("echo Traceback >&2; echo 'ValueError: of a fault' >&2; exit 1", "ValueError: of a fault"),
        ("kill -9 $$", "it gave no reason"),
    ],
)
def test_what_goes_wrong_stands_at_the_prompt(program: Path, what: str, said: str) -> None:
    does(program, what)
    made = form()
    named(made, "Extend…").click()
    assert said in alerts(made)
    assert buttons(made) == {"Extend…"} and made.controls["prompt"].value == "a woman talks"
    does(program, f"echo '{json.dumps({'extended': SENTENCE})}'")
    named(made, "Extend…").click()
    assert made.controls["prompt"].error == "" and named(made, "Proposal").value == SENTENCE


def test_an_empty_prompt_is_refused_at_once(program: Path) -> None:
    made = form(" ")
    named(made, "Extend…").click()
    assert "must be text of 1 to 10000 characters" in alerts(made) and not (program / "words").exists()


def test_a_command_that_is_not_there_is_an_error(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", os.devnull)
    made = form()
    named(made, "Extend…").click()
    assert os.devnull in alerts(made) and buttons(made) == {"Extend…"}
    with pytest.raises(LabError, match="is not known"):
        monkeypatch.undo()
        asyncio.run(command.run_command("weights", "where", "nothing"))


@pytest.mark.parametrize("request_class", [TextToImage, ImageToVideo, SpeechToVideo])
def test_it_follows_the_profile(weights: Path, request_class: type[Request]) -> None:
    made = form(request_class=request_class, profile="pocket")
    assert buttons(made) == set()
    made.set(profile="full")
    assert buttons(made) == {"Extend…"}
    made.set(profile="pocket")
    assert buttons(made) == set() and DOWNLOAD not in text(made)
    assert buttons(Form(Upscale, profile="full")) == set()


def test_without_the_model_it_says_how_to_download_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))
    made = form()
    assert buttons(made) == set()
    said = f'To extend prompts, download the language model (15.2 GB): <code class="wl-code">{DOWNLOAD}</code>'
    assert said in text(made)
    assert DOWNLOAD not in text(form(profile="pocket"))
    toy_qwen.random_model(tmp_path / toy_qwen.NAME)
    language.code = "zh"
    assert DOWNLOAD not in text(made) and named(made, "扩写提示词…")


def test_it_speaks_every_language(program: Path) -> None:
    made = form()
    named(made, "Extend…").click()
    for code, names in (
        ("ko", ("프롬프트 확장…", "확장된 프롬프트", "적용", "버리기")),
        ("zh", ("扩写提示词…", "扩写结果", "采用", "放弃")),
    ):
        language.code = code
        assert all(named(made, name) for name in names)
        assert SENTENCE in {each.value for each in shown(made) if hasattr(each, "value")}
