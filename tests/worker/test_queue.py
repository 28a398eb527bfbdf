"""The order of waiting runs and the pause: as written on disk, by several clients, and by one that is killed."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.queue_for_tests import (  # noqa: F401  fixtures
    PATIENCE,
    QueueUnderTest,
    eventually,
    is_alive,
    let_go,
    monitor_of,
    queue_fixture,
    queue_settings_fixture,
    shared_queue_fixture,
    steps_done,
)
from wanavatar_lab import jobs
from wanavatar_lab.errors import RunError
from wanavatar_lab.jobs import attach, is_paused, list_queue, pause, resume
from wanavatar_lab.worker.queue import PLACES, RunQueue


@contextmanager
def queue_of(ids: str) -> Iterator[RunQueue]:
    """A queue with a ticket for each letter, and no run folders."""
    with TemporaryDirectory() as folder:
        queue = RunQueue(Path(folder))
        queue.prepare()
        for each in ids:
            queue.add(each)
        yield queue


def moved(order: list[str], who: str, to: str) -> list[str]:
    """What a move means, on a list."""
    others = [each for each in order if each != who]
    now = order.index(who)
    if to == who:
        return order
    place = {"first": 0, "up": max(now - 1, 0), "down": now + 1, "last": len(others)}.get(to)
    place = others.index(to) if place is None else place
    return [*others[:place], who, *others[place:]]


MOVES = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from([*PLACES, *"abcdef"])), max_size=12)


@given(MOVES)
def test_moves_give_the_order_that_they_name(moves: list[tuple[str, str]]) -> None:
    with queue_of("abcdef") as queue:
        order = list("abcdef")
        for who, to in moves:
            queue.move(who, to)
            order = moved(order, who, to)
            assert queue.run_ids() == order
        queue.add("g")  # what is submitted later goes last
        assert queue.run_ids() == [*order, "g"]


class Killed(BaseException):
    """A client dies here."""


@given(st.sampled_from("abcdef"), st.sampled_from([*PLACES, *"abcdef"]), st.integers(0, 6))
def test_a_client_killed_while_it_moves_a_run_leaves_a_valid_order(who: str, to: str, survived: int) -> None:
    with queue_of("abcdef") as queue:
        queue.move("c", "first")  # so that there is a gap and a full stretch
        before = queue.run_ids()
        rename, left = Path.rename, [survived]

        def dies(path: Path, target: Path) -> Path:
            if not left[0]:
                raise Killed
            left[0] -= 1
            return rename(path, target)

        with patch.object(Path, "rename", dies):
            try:
                queue.move(who, to)
            except Killed:
                assert queue.run_ids() == before
                return
        assert queue.run_ids() == moved(before, who, to)


def test_what_cannot_be_moved_is_named() -> None:
    with queue_of("ab") as queue:
        with pytest.raises(RunError, match="c does not wait in the queue"):
            queue.move("c", "first")
        with pytest.raises(RunError, match=r"a cannot be moved to 'firts', .* did you mean first\?"):
            queue.move("a", "firts")
        assert queue.run_ids() == ["a", "b"]


def test_runs_start_in_the_order_that_clients_give_them(shared_queue: QueueUnderTest) -> None:
    running = shared_queue.submit(hold_at=1)
    shared_queue.worker_at(running, step=1)
    first, second, third, fourth = (shared_queue.submit() for _ in range(4))
    fourth.move("first")
    second.move(first.id)
    third.move("up")
    wanted = [fourth, second, third, first]
    assert [job.id for job in list_queue()] == [running.id, *(job.id for job in wanted)]
    assert [job.status().queue_place for job in wanted] == [1, 2, 3, 4]
    with pytest.raises(RunError, match="does not wait"):
        running.move("last")
    with pytest.raises(RunError, match=f"cannot be moved to '{running.id}'"):
        first.move(running.id)  # nothing goes before what has started
    let_go(running)
    starts = [job.wait(PATIENCE).started_at or 0.0 for job in (running, *wanted)]
    assert starts == sorted(starts)


def test_clients_that_move_and_are_killed_lose_no_ticket(queue: QueueUnderTest) -> None:
    pause()
    ids = [queue.submit().id for _ in range(6)]
    code = (
        f"import itertools, random\nids = {ids!r}\nprint('begins', flush=True)\n"
        "for _ in itertools.count():\n"
        "    attach(random.choice(ids)).move(random.choice(['first', 'up', 'down', 'last']))"
    )
    clients = [queue.client(code, stdout=subprocess.PIPE) for _ in range(3)]
    for client in clients:
        assert client.stdout is not None
        client.stdout.readline()
    orders = set()
    for client in clients:
        end = time.monotonic() + 0.3
        while time.monotonic() < end:
            with RunQueue(queue.runs_dir).locked():
                orders.add(tuple(RunQueue(queue.runs_dir).run_ids()))
        os.kill(client.pid, signal.SIGKILL)
        client.communicate()
    assert len(orders) > 3
    assert all(sorted(order) == sorted(ids) for order in orders)
    before = [job.id for job in list_queue()]
    resume()
    starts = [attach(run_id).wait(PATIENCE).started_at or 0.0 for run_id in before]
    assert starts == sorted(starts)


def test_a_paused_queue_starts_nothing_and_goes_on_where_it_was(shared_queue: QueueUnderTest) -> None:
    running = shared_queue.submit(hold_at=1)
    worker = shared_queue.worker_at(running, step=1)
    queued = shared_queue.submit()
    pause()
    client = shared_queue.client("print(is_paused())", stdout=subprocess.PIPE)
    assert client.communicate(timeout=PATIENCE)[0].strip() == "True"
    let_go(running)
    assert running.wait(PATIENCE).state == "succeeded", "what has started goes on"
    later = shared_queue.submit()
    time.sleep(0.3)
    status = queued.status()
    assert (status.state, status.queue_place, status.queue_paused) == ("queued", 1, True)
    assert status.message == "next; the queue is paused"
    later.move("first")
    resume()
    assert not is_paused() and not later.status().queue_paused
    assert queued.wait(PATIENCE).state == "succeeded"
    assert later.status().started_at < queued.status().started_at  # type: ignore[operator]
    assert later.run.manifest()["facts"]["process"] == worker, "its models are still there"


def test_the_pause_outlives_every_process(queue: QueueUnderTest) -> None:
    job, queued = queue.submit(hold_at=1), queue.submit()
    worker = queue.worker_at(job, step=1)
    pause()
    supervisor = queue.process_ids().supervisor
    monitor = monitor_of(supervisor)
    os.kill(worker, signal.SIGKILL)
    assert job.wait(PATIENCE, check=False).state == "failed"
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: not is_alive(supervisor) and not is_alive(monitor))
    assert queued.status().state == "queued", "and to look at it starts no supervisor"
    assert not RunQueue(queue.runs_dir).starts()
    time.sleep(0.2)
    assert steps_done(queued) == 0
    resume()
    assert queued.wait(PATIENCE).state == "succeeded"


def test_the_worker_of_a_paused_queue_leaves_when_it_is_idle(
    queue: QueueUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANAVATAR_WORKER_IDLE_SECONDS", "0.2")
    queue.submit().wait(PATIENCE)
    pause()
    queued = queue.submit()
    pids = queue.process_ids()
    eventually(lambda: not is_alive(pids.supervisor) and not any(map(is_alive, pids.workers)))
    queued.cancel()
    assert queued.status().state == "cancelled"
    after = queue.submit()
    resume()
    assert after.wait(PATIENCE).state == "succeeded"


def test_all_are_cancelled_and_the_last_one_first(shared_queue: QueueUnderTest) -> None:
    running = shared_queue.submit(steps=500, step_seconds=0.05)
    shared_queue.worker_at(running, step=1)
    queued = [shared_queue.submit() for _ in range(3)]
    assert jobs.cancel_all() == [running, *queued]
    assert [job.wait(PATIENCE, check=False).state for job in (running, *queued)] == ["cancelled"] * 4
    assert [steps_done(job) for job in queued] == [0, 0, 0]
    assert list_queue() == []
