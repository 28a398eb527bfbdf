"""Batches of a form: runs that differ in their seeds, one strip that fills, what cancels the rest."""

import asyncio
import shutil
from pathlib import Path

import pytest

from tests.queue_for_tests import QueueUnderTest, eventually, let_go, steps_done
from tests.stages_for_tests import Relax
from tests.ui.looking import alerts, everything, named, text, until
from wanavatar_lab.errors import RequestError
from wanavatar_lab.jobs import Job, list_jobs, list_queue
from wanavatar_lab.requests import Upscale
from wanavatar_lab.requests.fields import LARGEST_SEED
from wanavatar_lab.runs.run import Run
from wanavatar_lab.ui.batch import MOST_RUNS, Batch, seeds_from, submit_batch
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.panel import Panel


@pytest.fixture(autouse=True)
def queue(shared_queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch) -> QueueUnderTest:
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(shared_queue.runs_dir.parent))
    return shared_queue


def seeds(jobs: list[Job]) -> list[int]:
    return [job.run.request().to_json()["seed"] for job in jobs]


def batches(panel: Panel) -> list[Batch]:
    return [each for each in everything(panel) if isinstance(each, Batch)]


def test_seeds_differ_and_follow_the_first() -> None:
    assert seeds_from(7, 3) == [7, 8, 9]
    assert seeds_from(LARGEST_SEED, 2) == [LARGEST_SEED, 0]
    drawn = seeds_from(-1, MOST_RUNS)
    assert len(set(drawn)) == MOST_RUNS and all(0 <= seed <= LARGEST_SEED for seed in drawn)


def test_a_batch_is_queued_whole_or_not_at_all() -> None:
    before = len(list_jobs())
    jobs = submit_batch(Relax(profile="pocket", seed=3), 3)
    assert seeds(jobs) == [3, 4, 5] and [job.wait(20).seed for job in jobs] == [3, 4, 5]
    with pytest.raises(RequestError, match="does not exist"):
        submit_batch(Relax(profile="pocket", start="nowhere.npy"), 2)
    assert len(list_jobs()) == before + 3


def test_a_button_that_cannot_cancel_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path))
    batch = Batch([Job(Run.create(Relax(profile="pocket", seed=seed))) for seed in (1, 2)])
    (tmp_path / ".worker").touch()  # in whose place the queue cannot have its folder
    named(batch, "Cancel the rest").click()
    assert batch.strip.notice.startswith(str(tmp_path / ".worker"))
    batch.close()


def test_a_thumbnail_whose_run_was_deleted_says_so() -> None:
    jobs, chosen = submit_batch(Relax(profile="pocket", seed=3, steps=1), 2), list[Run]()
    for job in jobs:
        job.wait(20)
    batch = Batch(jobs, chosen.append)
    shutil.rmtree(jobs[0].run.folder)  # as in the gallery of another page
    batch.strip.chosen = jobs[0].id
    assert batch.strip.notice.startswith(f"There is no run '{jobs[0].id}' in ") and chosen == []
    batch.strip.chosen = jobs[1].id
    assert batch.strip.notice == "" and chosen == [jobs[1].run]


def test_the_form_queues_as_many_as_it_says_and_shows_one_strip(queue: QueueUnderTest) -> None:
    panel = Panel(Relax, seed=5, hold_at=1)

    async def person() -> None:
        named(panel, "How many").value = 3.0
        named(panel, "Run").click()
        await until(lambda: batches(panel) and batches(panel)[0].strip.items[0]["state"] == "running")
        (batch,) = batches(panel)
        assert seeds(batch.jobs) == [5, 6, 7] and [job.id for job in list_queue()] == [job.id for job in batch.jobs]
        assert "Batch 0 of 3 finished" in text(panel).replace("<strong>", "").replace("</strong>", "")
        # one card, of the one that is running, and a thumbnail for each
        await until(lambda: panel.run_ids == [batch.jobs[0].id])
        assert [(item["seed"], item["state"]) for item in batch.strip.items][1:] == [(6, "queued"), (7, "queued")]
        batch.jobs[2].move("first")
        let_go(batch.jobs[0])
        await until(lambda: batch.strip.items[2]["state"] == "running")
        assert batch.strip.items[0]["state"] == "succeeded" and batch.strip.items[0]["seed"] == 5
        await until(lambda: batch.jobs[2].id in panel.run_ids)  # in the order of the queue
        language.code = "zh"
        assert "已结束 1 / 3" in text(panel)
        named(panel, "取消其余任务").click()
        ended = ["succeeded", "cancelled", "cancelled"]
        await until(lambda: [item["state"] for item in batch.strip.items] == ended)
        assert steps_done(batch.jobs[1]) == 0
        batch.strip.chosen = batch.jobs[0].id
        assert batch.jobs[0].id in panel.run_ids  # whose result is shown, beside the card of what was cancelled last
        assert [batch.jobs[number].id in panel.record().html for number in (0, 2)] == [True, True]

    asyncio.run(person())


def test_a_number_outside_the_range_is_refused_where_it_stands() -> None:
    before = len(list_jobs())
    panel = Panel(Relax)
    assert "1 to 32" in text(panel)
    for wrong in (0.0, 33.0, 1.5):
        named(panel, "How many").value = wrong
        assert f"must be an integer from 1 to {MOST_RUNS}" in alerts(panel)
        named(panel, "Run").click()
    assert len(list_jobs()) == before
    named(panel, "How many").value = 2.0
    assert alerts(panel) == ""


def test_a_stage_without_a_seed_has_no_batches() -> None:
    assert "wl-of-count" not in str([each._dom_classes for each in everything(Panel(Upscale))])


def test_a_new_panel_finds_the_batch_that_goes_on(queue: QueueUnderTest) -> None:
    jobs = submit_batch(Relax(profile="pocket", seed=1, hold_at=1), 3)
    queue.worker_at(jobs[0], step=1)

    async def person() -> None:
        panel = Panel(Relax)
        await until(lambda: batches(panel))
        (batch,) = batches(panel)
        assert [job.id for job in batch.jobs] == [job.id for job in jobs]
        for job in jobs:
            let_go(job)
        await until(lambda: not batch.unfinished and panel.artifact == jobs[2].run.folder / "result.npy")
        panel.close()

    asyncio.run(person())
    assert eventually(lambda: list_queue() == [])
