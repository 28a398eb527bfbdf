"""What a panel shows of a run that has succeeded."""

import shutil
from pathlib import Path

import pytest

from tests.ui import made_runs
from tests.ui.looking import alerts, everything
from wanavatar_lab import jobs, media
from wanavatar_lab.requests import TextToImage, Upscale
from wanavatar_lab.runs.run import Run
from wanavatar_lab.runs.status import Artifact, Status
from wanavatar_lab.ui.panel import result_of, view_of
from wanavatar_lab.ui.player import Compare, Player

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "realesrgan_x2"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path))
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    return tmp_path


def drawn(*sides: int) -> Run:
    """A run that has drawn a picture and, where there are two sides, has enlarged it."""
    run = Run.create(TextToImage(prompt="a cat"))
    artifacts = [
        Artifact(kind="picture", path=f"{role or 'picture'}.png", role=role)
        for role, _ in zip(("", "upscaled"), sides, strict=False)
    ]
    for artifact, side in zip(artifacts, sides, strict=True):
        made_runs.picture(run.path(artifact), side=side)
    run.write_status(Status(state="succeeded", artifacts=artifacts))
    return run


def test_a_picture_that_was_enlarged_in_the_same_run_lies_under_the_larger_one() -> None:
    shown = result_of(drawn(64, 128))
    assert isinstance(shown, Compare)
    assert shown.sizes == ["64 × 64", "128 × 128"]
    assert (Path(shown.before).name, Path(shown.after).name) == ("picture.png", "upscaled.png")


def test_one_that_was_not_is_shown_alone() -> None:
    shown = result_of(drawn(64))
    assert isinstance(shown, Player) and shown.labels == ["picture.png"]


def test_the_result_of_an_upscale_lies_over_the_picture_that_was_given(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANAVATAR_DEVICE", "cpu")
    given = Path(shutil.copy(GOLDEN / "input.png", place / "given.png"))
    run = jobs.run_here(Upscale(image=str(given), weights=str(GOLDEN / "toy_x2.pth"), profile="pocket"))
    assert run.status().state == "succeeded", run.status().error
    shown = result_of(run)
    assert isinstance(shown, Compare)
    assert (Path(shown.before).name, Path(shown.after).name) == ("given.png", "upscaled.png")
    (width, height), larger = (media.read_picture(file).size for file in (given, run.folder / "upscaled.png"))
    assert larger == (2 * width, 2 * height)
    assert shown.sizes == [f"{width} × {height}", f"{2 * width} × {2 * height}"]


def test_files_are_shown_beside_each_other_and_what_cannot_be_is_said(place: Path) -> None:
    files = [made_runs.picture(place / "a.png", side=32), made_runs.clip(place / "b.mp4", 0.5, side=32)]
    assert [each.kind for each in everything(view_of(files)) if isinstance(each, Player)] == ["picture", "video"]
    (elsewhere := place.parent / "c.png").write_bytes(files[0].read_bytes())
    assert "c.png" in alerts(view_of([elsewhere]))
