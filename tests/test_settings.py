"""Settings come from the environment, and below it from a file."""

from pathlib import Path

import pytest

from tests.queue_for_tests import REPOSITORY
from wanavatar_lab.errors import LabError
from wanavatar_lab.settings import Settings, read_settings


def written(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def test_without_any_the_defaults_hold() -> None:
    assert read_settings({}) == Settings()


def test_default_folders_are_the_repositorys_wherever_the_process_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = read_settings({})
    assert (found.runs_dir, found.weights_dir) == (REPOSITORY / "runs", REPOSITORY / "weights")
    assert read_settings({"WANAVATAR_RUNS_DIR": "mine"}).runs_dir == Path("mine")


def test_the_environment_sets_them() -> None:
    found = read_settings({"WANAVATAR_WEIGHTS": "/models", "WANAVATAR_DEVICE": "cuda:1"})
    assert (found.weights_dir, found.device) == (Path("/models"), "cuda:1")
    assert read_settings({"WANAVATAR_WEIGHTS": "/a", "WANAVATAR_WEIGHTS_DIR": "/b"}).weights_dir == Path("/b")


def test_a_variable_without_a_value_sets_nothing(tmp_path: Path) -> None:
    file = written(tmp_path / "mine.toml", 'runs_dir = "/runs"\n')
    # as a container's, whose own variable is not set: the working folder is no folder of runs
    empty = {"WANAVATAR_RUNS_DIR": "", "WANAVATAR_WEIGHTS": "", "WANAVATAR_GPUS": "", "WANAVATAR_DEVICE": ""}
    assert read_settings({"WANAVATAR_SETTINGS": str(file), **empty}) == Settings(runs_dir=Path("/runs"))


@pytest.mark.parametrize("where", ["WANAVATAR_SETTINGS", "XDG_CONFIG_HOME", "HOME"])
def test_a_file_says_where_weights_lie(where: str, tmp_path: Path) -> None:
    places = {
        "WANAVATAR_SETTINGS": tmp_path / "mine.toml",
        "XDG_CONFIG_HOME": tmp_path / "wanavatar-lab/settings.toml",
        "HOME": tmp_path / ".config/wanavatar-lab/settings.toml",
    }
    file = written(places[where], 'weights_dir = "/models"\nworker_idle_seconds = 5\n')
    environ = {where: str(file if where == "WANAVATAR_SETTINGS" else tmp_path)}
    found = read_settings(environ)
    assert (found.weights_dir, found.worker_idle_seconds) == (Path("/models"), 5)
    assert read_settings({**environ, "WANAVATAR_WEIGHTS": "/other"}).weights_dir == Path("/other")


def test_a_folder_in_the_home_is_found_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = written(tmp_path / "mine.toml", 'weights_dir = "~/models"\n')
    found = read_settings({"WANAVATAR_SETTINGS": str(file), "WANAVATAR_RUNS_DIR": "~/runs"})
    assert (found.weights_dir, found.runs_dir) == (tmp_path / "models", tmp_path / "runs")


def test_a_home_without_a_file_is_fine(tmp_path: Path) -> None:
    assert read_settings({"HOME": str(tmp_path)}) == Settings()
    # the system refuses to look there, as into the home of another user
    assert read_settings({"HOME": str(tmp_path / ("home" * 100))}) == Settings()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'weight_dir = "/models"',
            r"mine\.toml sets 'weight_dir', which is not a setting; use one of runs_dir, weights_dir",
        ),
        ("worker_idle_seconds = -1", r"worker_idle_seconds in .*mine\.toml is -1: .*Remove it"),
        ('runs_dir = ""', r"runs_dir in .*mine\.toml is '': must be the path of a folder\. Remove it"),
        ("weights_dir = ", r"mine\.toml cannot be read"),
        (None, r"mine\.toml cannot be read"),
    ],
)
def test_what_does_not_fit_is_named(text: str | None, said: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    if text is not None:
        written(file, text)
    with pytest.raises(LabError, match=said):
        read_settings({"WANAVATAR_SETTINGS": str(file)})


def test_a_variable_that_does_not_fit_is_named() -> None:
    with pytest.raises(LabError, match=r"WANAVATAR_MAX_PICTURE_PIXELS is 'many'.*Unset it"):
        read_settings({"WANAVATAR_MAX_PICTURE_PIXELS": "many"})


@pytest.mark.parametrize("device", ["gpu", "abacus", "cuda:", "cuda:one", "CUDA"])
def test_a_device_that_torch_does_not_know_is_refused(device: str) -> None:
    with pytest.raises(LabError, match=f"WANAVATAR_DEVICE is '{device}': must be auto, cpu, cuda or cuda:<n>"):
        read_settings({"WANAVATAR_DEVICE": device})
