"""Plain papermill, which by itself only warns of a parameter that there is not: the notebooks refuse it themselves.

Every notebook, whole, is run by `make notebooks`: see `every_notebook.py`.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.notebooks.papermill_lines import papermill, queue_of
from tests.queue_for_tests import REPOSITORY
from tests.ui import made_runs
from wanavatar_lab.jobs import list_jobs
from wanavatar_lab.requests import TextToImage


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with queue_of(tmp_path_factory.mktemp("papermill")) as folder:
        picture = made_runs.picture(folder / "made.png", side=64)
        made_runs.ended_run(TextToImage(prompt="An old sailor", profile="pocket"), [("picture", picture)])
        yield folder


def test_the_gallery_lists_what_was_made(place: Path) -> None:
    done = papermill("06_gallery", place / "out", "-p", "interactive", "False", "-p", "query", "sailor")
    assert done.code == 0, done.told
    (run,) = [job.run for job in list_jobs()]
    line, count, newest = done.said.splitlines()
    assert f"Text to image  An old sailor  runs/{run.id}/made.png" in line
    assert (count, newest) == ("1 of 1", str(run.folder / "made.png"))


def test_a_number_is_text_for_a_text(place: Path) -> None:
    done = papermill("06_gallery", place / "out", "-p", "interactive", "False", "-p", "query", "1984", here=True)
    assert done.code == 0, done.told
    executed = (place / "out" / "06_gallery.ipynb").read_text(encoding="utf-8")
    assert "query is the number 1984 to papermill's -p, and is taken as the text '1984'" in executed
    assert done.said.splitlines()[0] == "0 of 0"


@pytest.mark.parametrize(
    ("name", "words", "complaint"),
    [
        (
            "00_check",
            ["-p", "profil", "pocket"],
            "profil: this notebook has no such parameter; did you mean 'profile'?",
        ),
        ("01_text_to_image", ["-p", "sede", "7"], "sede: this notebook has no such parameter; did you mean 'seed'?"),
        ("05_pipeline", ["-p", "audio_duration", "long"], "audio_duration: must be a number"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_name(place: Path, name: str, words: list[str], complaint: str) -> None:
    before = len(list_jobs())
    done = papermill(name, place / "out", "-p", "interactive", "False", *words, here=True)
    assert done.code != 0
    assert f"RequestError: {complaint}" in done.told
    assert len(list_jobs()) == before


def test_a_kernel_in_any_folder_finds_the_repositorys_weights_without_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in [name for name in os.environ if name.startswith("WANAVATAR_")]:
        monkeypatch.delenv(variable)
    done = papermill("00_check", tmp_path, "--cwd", str(REPOSITORY / "notebooks"))
    assert done.code == 0, done.told
    places = [line for line in done.said.splitlines() if str(REPOSITORY / "weights" / "pocket") in line]
    assert places and all("present" in line for line in places), done.said
