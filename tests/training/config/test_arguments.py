"""What a command line says of a run, to who trains at once and to who starts a run apart."""

import argparse
import json
from pathlib import Path

import pytest

from training.config import TrainingConfig
from training.config.arguments import add_config, config_of
from training.config.recipes import s2v_14b_2gpu
from training.launch import launch
from wanavatar_lab.errors import LabError


def read(*words: str | Path) -> TrainingConfig:
    parser = argparse.ArgumentParser()
    add_config(parser)
    return config_of(parser.parse_args(list(map(str, words))))


def test_what_is_said_more_closely_counts(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"samples": "from_file", "run": "from_file", "rank": 8, "seed": 3, "base_dtype": "fp8"}))
    words = ("--recipe", "s2v_14b_2gpu", "--config", file, "--run", "mine", "--set", "rank", "4")
    wanted = s2v_14b_2gpu() | {"rank": 4, "seed": 3, "base_dtype": "fp8", "samples": "from_file", "run": "mine"}
    assert read(*words, "--set", "init_from", "old") == TrainingConfig(init_from=Path("old"), **wanted)


@pytest.mark.filterwarnings("ignore:Old names")
def test_old_names_count_as_the_new_ones_do(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"samples": "a", "run": "b", "steps": 30, "accumulation": 3}))
    found = read("--recipe", "pocket", "--config", file, "--set", "accumulation", "5")
    assert (found.max_train_steps, found.gradient_accumulation_steps, found.lr_warmup_steps) == (30, 5, 10)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    for text in (None, "{", "[1]", "3"):
        if text is not None:
            file.write_text(text)
        with pytest.raises(LabError, match=r"run\.json cannot be read"):
            read("--config", file)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("--recipe pocket", "samples"),
        ("--samples a --run b --set rank 0", "rank"),
        ("--samples a --run b --set speed 3", "speed"),
        ("--config gone.json", "gone.json cannot be read"),
        ("--recipe pocket --samples a --run b --processes 2", "2 processes need a launcher"),
        ("--stop gone", "The run in gone is not running"),
    ],
)
def test_what_cannot_be_started_is_said_in_words(
    words: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=why):
        launch.main(words.split())
    assert not list(tmp_path.iterdir())


def test_a_run_that_never_was_is_not_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launch.main(["--state", str(tmp_path / "gone")])
    assert capsys.readouterr().out == "not started\n"
