"""The command extend-prompt: what it prints, and what it refuses."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import toy_qwen
from tests.queue_for_tests import REPOSITORY
from wanavatar_lab.cli import main

SENTENCE = "The woman looks into a lens, and nods."


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    toy_qwen.reciting_model(tmp_path / toy_qwen.NAME, SENTENCE)
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("WANAVATAR_DEVICE", "cpu")
    return tmp_path


def test_it_prints_the_text_and_writes_nothing(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(weights.rglob("*"))
    assert main(["extend-prompt", "speech-to-video", "a woman talks"]) == 0
    assert capsys.readouterr().out == f"{SENTENCE}\n"
    assert sorted(weights.rglob("*")) == before


def test_json_has_the_prompt_beside_the_text(
    weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"--a woman\n")))
    assert main(["extend-prompt", "image_to_video", "-", "--seed", "7", "--json"]) == 0
    expected = {"stage": "image_to_video", "prompt": "--a woman", "extended": SENTENCE}
    assert json.loads(capsys.readouterr().out) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["speech-to-video", " "], "prompt: must be text of 1 to 10000 characters (got ' ')"),
        (["upscale", "x"], "stage: must be one of text_to_image, image_to_video, speech_to_video (got 'upscale')"),
        (["speech-to-video", "x", "--language", "ko"], "language: must be one of en, zh (got 'ko')"),
        (["speech-to-video", "x", "--seed", "1.5"], "seed: must be an integer from 0 to 4294967295 (got '1.5')"),
        (["speech-to-video", "x", "--seed=-1"], "seed: must be an integer from 0 to 4294967295 (got '-1')"),
    ],
)
def test_arguments_are_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extend-prompt", *words]) == 2
    assert capsys.readouterr().err == f"wanavatar-lab: {message}\n"


def test_missing_weights_are_told_before_anything_heavy_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANAVATAR_WEIGHTS", str(tmp_path))
    code = (
        "import sys; from wanavatar_lab.cli import main\n"
        "code = main(['extend-prompt', 'speech-to-video', 'a woman'])\n"
        "print(code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.stdout == "1 False\n"
    assert f"`wanavatar-lab weights download {toy_qwen.NAME}` gets what is missing (15.2 GB in all)" in done.stderr
