"""Grids of runs: refused as a whole, queued as a whole, shown with their axes."""

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.queue_for_tests import QueueUnderTest, let_go, steps_done
from tests.stages_for_tests import Relax
from tests.ui import made_runs
from tests.ui.looking import until
from wanavatar_lab.errors import RequestError
from wanavatar_lab.jobs import Job, list_jobs, submit
from wanavatar_lab.requests import ImageToVideo, TextToImage
from wanavatar_lab.runs import trash
from wanavatar_lab.runs.run import Run
from wanavatar_lab.runs.status import Artifact, Status
from wanavatar_lab.ui import record
from wanavatar_lab.ui.form import Form
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.sweep import Sweep, sweep


@pytest.fixture(autouse=True)
def queue(shared_queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch) -> QueueUnderTest:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(shared_queue.runs_dir.parent))
    return shared_queue


def test_every_combination_is_made() -> None:
    tried = sweep(Relax(profile="pocket"), seed=[1, 2, 3], steps=(1, 2))
    assert tried.axes == {"seed": [1, 2, 3], "steps": [1, 2]}
    found = asyncio.run(tried.results())
    assert [dict(each.values) for each in found] == [
        {"seed": seed, "steps": steps} for seed in (1, 2, 3) for steps in (1, 2)
    ]
    for each in found:
        assert each.path is not None and each.path.is_file() and each.error == ""
        request = each.job.run.request()
        assert isinstance(request, Relax)
        assert {"seed": request.seed, "steps": request.steps} == each.values


def test_one_that_fails_does_not_hide_the_others() -> None:
    found = asyncio.run(sweep(Relax(profile="pocket", steps=1), fault=["", "weights"]).results())
    assert [each.path is None for each in found] == [False, True]
    assert "The weights of relax are missing." in found[1].error


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ({"sede": [1, 2]}, "sede: there is no such field; did you mean 'seed'?"),
        ({"seed": [1, -5]}, "seed: must be an integer from 0 to 4294967295, or -1 to draw one (got -5)"),
        ({"seed": 3}, "seed: must be a list of values to try, each an integer"),
        ({"prompt": "a cat"}, "prompt: must be a list of values to try, each text of 1"),
        ({"seed": []}, "seed: must be a list of values to try"),
        ({}, "there is nothing to try; give a field with a list of values, such as seed=[1, 2]"),
        ({"seed": range(20), "num_inference_steps": range(1, 13), "upscale": [True, False]}, "480 runs are too many"),
        ({"loras": [(), ("nobody",)]}, "loras[0].name: 'nobody' is not there"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_queued(lists: dict[str, Any], words: str) -> None:
    before = len(list_jobs())
    with pytest.raises(RequestError) as caught:
        sweep(TextToImage(profile="pocket", prompt="a cat"), **lists)
    assert str(caught.value).startswith(words)
    assert len(list_jobs()) == before


def test_a_form_that_is_not_filled_in_is_refused() -> None:
    with pytest.raises(RequestError, match="there is no request; correct the errors shown in the form"):
        sweep(Form(TextToImage).request(), seed=[1, 2])


def test_a_file_that_is_missing_is_refused_too() -> None:
    with pytest.raises(RequestError, match=r"image: 'b.png' does not exist"):
        sweep(ImageToVideo(profile="pocket", image=__file__), image=[__file__, "b.png"])


def test_the_sheet_has_the_values_along_its_sides(queue: QueueUnderTest) -> None:
    request = TextToImage(profile="pocket", prompt="a cat")
    axes: dict[str, list[Any]] = {"prompt": ["a cat", "a very long story " * 10], "upscale": [True], "seed": [1, 2, 3]}
    runs = [Run.create(request) for _ in range(6)]
    for run in runs[:4]:
        (run.folder / "picture.png").write_bytes(b"-")
        run.write_status(Status(state="succeeded", artifacts=[Artifact(kind="picture", path="picture.png")]))
    runs[4].write_status(Status(state="failed", error="no"))
    sheet = Sweep(request, axes, [Job(run) for run in runs]).sheet()
    assert sheet.columns == ["Seed 1", "Seed 2", "Seed 3"]
    assert sheet.rows[0] == "Prompt a cat, Upscale 2x True"
    assert sheet.rows[1].startswith("Prompt a very long story") and "…, Upscale 2x True" in sheet.rows[1]
    *shown, failed, going = [cell for row in sheet.cells for cell in row]
    assert [Path(cell["path"]).parts[-2:] for cell in shown] == [(run.id, "picture.png") for run in runs[:4]]
    assert (failed, going) == ({"why": "failed", "error": "no"}, None)
    language.code = "ko"
    assert Sweep(request, {"seed": [1]}, [Job(runs[0])]).sheet().columns == ["시드 1"]


def test_results_outside_of_the_servers_root_are_kept_and_sent(
    queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(tmp_path))
    request = TextToImage(profile="pocket", prompt="a cat")
    runs = [Run.create(request) for _ in range(3)]
    for run in runs:
        made_runs.picture(run.folder / "picture.png", side=64)
        run.write_status(Status(state="succeeded", artifacts=[Artifact(kind="picture", path="picture.png")]))
    (runs[1].folder / "picture.png").unlink()
    sheet = Sweep(request, {"seed": [1, 2, 3]}, [Job(run) for run in runs]).sheet()
    first, gone, last = sheet.cells[0]
    assert (first["path"], first["kind"], last["path"]) == ("", "picture", "")
    assert gone["why"] == "unseen" and "No such file" in gone["error"], "it hides no other"
    kept = sheet.record()
    assert kept.html.count('src="data:image/') == 2 and kept.picture and "picture.png: 64" in kept.text
    sent: list[Any] = []
    monkeypatch.setattr(sheet, "send", lambda content, buffers=None: sent.append((content["id"], buffers)))
    for cell in (first, last):
        sheet.receive({"kind": "thumbnail", "id": cell["id"]})
    assert [each for each, _ in sent] == ["0 0", "0 2"] and all(buffers[0][:2] == b"\xff\xd8" for _, buffers in sent)


def test_the_sheet_fills_while_the_runs_go_on(queue: QueueUnderTest) -> None:
    async def person() -> None:
        tried = sweep(Relax(profile="pocket", steps=2, hold_at=1), fault=["", "weights"], seed=[1, 2])
        sheet = tried.sheet()
        assert (sheet.rows, sheet.columns) == (["what goes wrong ", "what goes wrong weights"], ["Seed 1", "Seed 2"])
        assert sheet.cells == [[None, None], [None, None]]
        first, second, third, fourth = tried.jobs
        await until(lambda: steps_done(first) >= 1)
        third.cancel()
        let_go(first)
        await until(lambda: sheet.cells[0][0] and sheet.cells[1][0])
        assert sheet.cells[0][0]["why"] == "unseen" and "result.npy is no picture" in sheet.cells[0][0]["error"]
        assert sheet.cells[1][0] == {"why": "cancelled", "error": ""}
        for job in (second, fourth):
            let_go(job)
        await until(lambda: sheet.cells[1][1])
        assert sheet.cells[1][1]["why"] == "failed" and "weights of relax are missing" in sheet.cells[1][1]["error"]

    asyncio.run(person())


def test_one_that_is_deleted_meanwhile_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a notebook runs headless too, which prints the progress of each."""
    monkeypatch.setattr(record._reader, "is_there", False)

    async def person() -> None:
        tried = sweep(Relax(profile="pocket", steps=2, hold_at=1), seed=[1, 2])
        waiting = asyncio.create_task(tried.results())
        await until(lambda: steps_done(tried.jobs[0]) >= 1)
        tried.jobs[1].cancel()
        trash.discard(tried.jobs[1].run)
        let_go(tried.jobs[0])
        first, deleted = await waiting
        assert first.path is not None and deleted.path is None and "There is no run in" in deleted.error

    asyncio.run(person())


def test_one_that_is_interrupted_while_it_is_queued_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    queued = list[Job]()

    def interrupted(request: Relax) -> Job:
        if len(queued) == 2:
            raise KeyboardInterrupt
        queued.append(submit(request))
        return queued[-1]

    monkeypatch.setattr("wanavatar_lab.ui.sweep.submit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(Relax(profile="pocket", hold_at=1), seed=[1, 2, 3])
    assert [job.wait(check=False, progress=False).state for job in queued] == ["cancelled"] * 2


def test_cancelling_a_sweep_skips_deleted_runs() -> None:
    async def person() -> None:
        tried = sweep(Relax(profile="pocket", hold_at=1), seed=[1, 2, 3])
        tried.jobs[2].cancel()
        shutil.rmtree(tried.jobs[2].run.folder)
        waiting = asyncio.create_task(tried.results())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await until(lambda: all(job.status().state == "cancelled" for job in tried.jobs[:2]))

    asyncio.run(person())
