"""Two trainings in one folder, and samples that change under a training: refused, and only as long as it goes on."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.toy import config_of
from training.launch import folder_locks
from training.launch.folder_locks import changing, encoding_in, is_trained_in, training_in
from training.launch.launch import start
from wanavatar_lab import locks
from wanavatar_lab.errors import LabError

HOLD = """
import sys, time
from pathlib import Path
from training.launch.folder_locks import training_in
with training_in(Path(sys.argv[1]), Path(sys.argv[2])):
    print("holds", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setattr(folder_locks, "_PATIENCE", 0.2)
    for name in ("run", "samples"):
        (tmp_path / name).mkdir()
    return tmp_path / "run", tmp_path / "samples"


def test_a_folder_is_free_again_when_its_training_was_killed(folders: tuple[Path, Path], tmp_path: Path) -> None:
    run, samples = folders
    assert not is_trained_in(run)
    process = subprocess.Popen([sys.executable, "-c", HOLD, run, samples], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "holds\n"
        assert is_trained_in(run)
        with pytest.raises(LabError, match="Another training is running in"), training_in(run, samples):
            pass
        with pytest.raises(LabError, match="is running already"):
            start(config_of(tmp_path))
        with pytest.raises(LabError, match="uses the samples"), changing(samples):
            pass
    finally:
        process.kill()
        process.communicate()
    assert not is_trained_in(run)
    with changing(samples):
        pass
    with training_in(run, samples):
        assert is_trained_in(run)


def test_a_run_is_not_put_among_its_samples(folders: tuple[Path, Path]) -> None:
    _, samples = folders
    with (
        pytest.raises(LabError, match="is the folder of the samples"),
        training_in(samples / ".." / "samples", samples),
    ):
        pass


def test_several_trainings_read_the_same_samples(folders: tuple[Path, Path], tmp_path: Path) -> None:
    run, samples = folders
    (tmp_path / "other").mkdir()
    with training_in(run, samples):
        with training_in(tmp_path / "other", samples):
            pass
        with pytest.raises(LabError, match="encode into another folder"), changing(samples):
            pass
    with changing(samples):
        pass


def test_one_process_at_a_time_encodes_into_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "samples"
    with encoding_in(folder):
        with pytest.raises(LabError, match=r"Another process encodes into .*samples\. Wait"), encoding_in(folder):
            pass
        with changing(folder):  # by the one that encodes
            pass
    with encoding_in(folder):
        pass


def test_samples_that_nobody_may_change_can_be_read(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, samples = folders

    def forbidden(path: Path, *, wait: bool, shared: bool = False) -> int | None:
        if shared:  # whoever is root may write everywhere
            raise PermissionError
        return take(path, wait=wait)

    take = locks.take
    monkeypatch.setattr(locks, "take", forbidden)
    with training_in(run, samples):
        assert not list(samples.iterdir())
