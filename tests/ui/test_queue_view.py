"""The queue on a page: real runs in their order, moved, paused and cancelled from there and from elsewhere."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.queue_for_tests import QueueUnderTest, eventually, let_go
from tests.stages_for_tests import Relax
from tests.ui import made_runs
from tests.ui.looking import named, shown, text, until
from wanavatar_lab.jobs import Job, is_paused, list_queue, pause, resume, submit
from wanavatar_lab.ui.job_card import JobCard
from wanavatar_lab.ui.language import language
from wanavatar_lab.ui.queue_view import LOOK_SECONDS, QueueView


@pytest.fixture
def running(shared_queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    """A run that is running until it is let go; afterwards the queue is empty and not paused."""
    monkeypatch.setenv("WANAVATAR_SERVER_ROOT", str(shared_queue.runs_dir.parent))
    job = shared_queue.submit(hold_at=1, steps=2)
    shared_queue.worker_at(job, step=1)
    yield job
    resume()
    for each in reversed(list_queue()):
        each.cancel()
    eventually(lambda: not list_queue())


def seen(queue: QueueView) -> QueueView:
    """The queue, once it has looked again."""
    queue.look()
    return queue


def cards(queue: QueueView) -> list[str]:
    return [card.run_id for card in queue.cards]


def rows(queue: QueueView) -> list[str]:
    return [row["id"] for row in queue.waiting.runs]


def press(queue: QueueView, kind: str, job: Job, **more: Any) -> None:
    queue.waiting.receive({"kind": kind, "run": job.id, **more})


def test_what_runs_has_a_card_and_what_waits_a_row(shared_queue: QueueUnderTest, running: Job, tmp_path: Path) -> None:
    picture = made_runs.picture(shared_queue.runs_dir.parent / "face.png", side=8)
    second, third = submit(Relax(profile="pocket", seed=5, start=str(picture))), shared_queue.submit(fault="weights")
    queue = QueueView()
    assert (cards(queue), rows(queue)) == ([running.id], [second.id, third.id])
    row = queue.waiting.runs[0]
    assert (row["title"], row["prompt"], row["thumbnail"], row["seed"]) == ("Relax", "face.png", "face.png", 5)
    assert "3 runs in the queue" in text(queue)
    second.cancel()
    let_go(running)
    third.wait(20, check=False)
    assert eventually(lambda: "in the queue" not in text(seen(queue)))
    # what succeeded or was cancelled is in the gallery; a reason is only here, however short the run was
    assert [(card.run_id, card.state) for card in queue.cards] == [(third.id, "failed")]
    assert rows(queue) == []
    queue.close()


def test_runs_are_moved_and_cancelled_in_their_rows(shared_queue: QueueUnderTest, running: Job) -> None:
    one, two, three = (shared_queue.submit() for _ in range(3))
    queue, other = QueueView(), QueueView()
    press(queue, "move", three, to="first")
    assert rows(queue) == rows(seen(other)) == [three.id, one.id, two.id]
    press(other, "move", two, to=one.id)  # as it is dropped on the upper half of that row
    assert rows(other) == rows(seen(queue)) == [three.id, two.id, one.id] == [job.id for job in list_queue()][1:]
    press(queue, "cancel", two)
    assert rows(queue) == [three.id, one.id] and two.status().state == "cancelled"
    press(other, "move", two, to="first")  # which that page still shows
    assert "does not wait in the queue" in other.waiting.notice and rows(other) == [three.id, one.id]
    language.code = "ko"
    press(other, "move", two, to="first")
    assert "대기열에서 기다리고 있지 않" in other.waiting.notice
    press(other, "move", one, to="up")
    assert other.waiting.notice == "" and rows(other) == [one.id, three.id]
    for each in (queue, other):
        each.close()


def test_the_pause_is_that_of_all_clients(shared_queue: QueueUnderTest, running: Job) -> None:
    queued = shared_queue.submit()
    queue = QueueView()
    named(queue, "Pause").click()
    assert is_paused() and "no run starts until you resume" in text(queue)
    card = JobCard(queued.id)
    assert card.queue_paused
    supervisor = shared_queue.process_ids().supervisor
    os.kill(supervisor, signal.SIGSTOP)  # so that the run keeps its ticket for a while after it has ended
    try:
        let_go(running)
        assert running.wait(20).state == "succeeded"
        assert (cards(seen(queue)), rows(queue)) == ([], [queued.id])
        assert [job.id for job in list_queue()] == [queued.id]
    finally:
        os.kill(supervisor, signal.SIGCONT)
    card.receive({"kind": "resume"})
    assert not is_paused()
    assert queued.wait(20).state == "succeeded"
    seen(queue)
    assert "Paused" not in text(queue) and not list(
        filter(lambda each: "wl-queue-head" in each._dom_classes, shown(queue))
    )
    pause()
    assert named(seen(queue), "Resume")  # also where nothing waits, or nobody would know why nothing starts
    named(queue, "Resume").click()
    assert not is_paused()
    queue.close()


def test_a_button_that_cannot_do_it_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path))
    pause()
    queue, folder = QueueView(), tmp_path / ".worker"
    folder.rename(tmp_path / "aside")
    folder.touch()  # in whose place the queue cannot have its folder
    named(queue, "Resume").click()
    assert queue.waiting.notice.startswith(str(folder))
    folder.unlink()
    (tmp_path / "aside").rename(folder)
    named(queue, "Resume").click()
    assert queue.waiting.notice == "" and not is_paused()
    queue.close()


def test_the_queue_leaves_out_what_stands_elsewhere_and_cancels_all(shared_queue: QueueUnderTest, running: Job) -> None:
    rest = [shared_queue.submit() for _ in range(4)]
    shown_elsewhere = [running.id, rest[0].id]
    queue = QueueView(elsewhere=lambda: shown_elsewhere)
    assert (cards(queue), rows(queue)) == ([], [job.id for job in rest[1:]])
    assert "3 runs in the queue" in text(queue)
    queue.reveal(rest[3].id)
    assert queue.waiting.reveal
    named(queue, "Cancel all").click()
    assert [job.status().state for job in rest] == ["queued", "cancelled", "cancelled", "cancelled"]
    assert running.status().state == "running"  # whose card, with its own button, is elsewhere
    shown_elsewhere.clear()
    queue.look()
    named(queue, "Cancel all").click()
    assert eventually(lambda: running.status().state == "cancelled")
    assert eventually(lambda: cards(seen(queue)) == []) and "in the queue" not in text(queue)
    queue.close()


def test_a_page_follows_by_itself(shared_queue: QueueUnderTest, running: Job) -> None:
    async def person() -> None:
        queue = QueueView()
        job = shared_queue.submit()
        await until(lambda: rows(queue) == [job.id])
        let_go(running)
        await until(lambda: rows(queue) == [] and cards(queue) == [])
        queue.close()

    asyncio.run(person())


def test_a_page_follows_again_when_its_disk_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, disk = tmp_path / "runs", tmp_path / "disk"
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(runs))
    disk.mkdir()
    runs.symlink_to(disk)

    async def person() -> None:
        queue = QueueView()
        runs.unlink()
        runs.symlink_to(runs)  # which cannot be read, as a network disk that is away
        with pytest.raises(OSError, match="symbolic links"):
            queue.look()
        await asyncio.sleep(LOOK_SECONDS * 1.5)
        runs.unlink()
        runs.symlink_to(disk)
        pause()
        await until(lambda: "no run starts until you resume" in text(queue))
        queue.close()

    asyncio.run(person())
