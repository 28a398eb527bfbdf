"""A chain that outlives its client, in real runs of the test stage."""

import asyncio
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from tests.queue_for_tests import QueueUnderTest, eventually, let_go, shared_queue_fixture
from tests.stages_for_tests import SIDE, Relax
from wanavatar_lab.errors import LabError, RequestError
from wanavatar_lab.jobs import Job, list_jobs
from wanavatar_lab.pipeline import Link, Progress
from wanavatar_lab.pipeline.chain import Chain

__all__ = ["shared_queue_fixture"]

pytestmark = pytest.mark.usefixtures("shared_queue")


def relax(file: str, *, takes: str | None = None, **values: object) -> Link:
    given = {"start": takes} if takes else {}
    return Link(file, Relax(profile="pocket", **{"seed": 1, **values, **given}), given)


def nothing(_: Progress) -> None:
    pass


def newest(before: int) -> Job:
    """The newest run, once there are more than `before`."""
    job: Job = eventually(lambda: next(iter(list_jobs()), None) if len(list_jobs()) > before else None)
    return job


def test_a_chain_goes_on_when_its_client_has_gone_and_is_found_again(shared_queue: QueueUnderTest) -> None:
    before = len(list_jobs())
    begin = """
from wanavatar_lab.pipeline import Link
from wanavatar_lab.pipeline.chain import Chain
first = Link("a.npy", Relax(profile="pocket", seed=1, hold_at=1))
Chain.start([first, Link("b.npy", Relax(profile="pocket", seed=2, start="a.npy"), {"start": "a.npy"})])
"""
    assert shared_queue.client(begin).wait(60) == 0
    let_go(newest(before))
    made = eventually(lambda: len(list_jobs()) == before + 2 and list_jobs()[0].status().ended)
    assert made, "without anybody who follows it"
    (chain,) = Chain.unseen()
    seen: list[Progress] = []
    first, second = asyncio.run(chain.follow(seen.append))
    assert [one.link.file for one in (first, second)] == ["a.npy", "b.npy"]
    assert second.job.run.manifest()["parents"] == [first.job.id] and second.status.seed == 2
    assert [(one.number, one.status.state) for one in seen] == [(1, "succeeded"), (2, "succeeded")]
    assert Chain.unseen() == []
    # one with a result that is kept runs the rest
    links = [first.link, relax("b.npy", takes="a.npy", seed=3)]
    again = Chain.start(links, {"a.npy": first})
    assert not chain.folder.exists(), "it was seen"
    assert [one.job.id == first.job.id for one in asyncio.run(again.follow(nothing))] == [True, False]


def test_a_chain_that_is_cancelled_begins_no_other_run() -> None:
    before = len(list_jobs())
    chain = Chain.start([relax("a.npy", hold_at=1), relax("b.npy", takes="a.npy")])
    newest(before)

    async def stop() -> None:
        following = asyncio.create_task(chain.follow(nothing, cancel=True))
        await asyncio.sleep(0)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
        with pytest.raises(LabError, match="relax was cancelled"):
            await chain.follow(nothing)

    asyncio.run(stop())
    eventually(lambda: not driver(chain))
    assert len(list_jobs()) == before + 1


def test_a_chain_is_cancelled_also_where_an_earlier_result_was_deleted() -> None:
    before = len(list_jobs())
    chain = Chain.start([relax("a.npy"), relax("b.npy", hold_at=1)])
    second = newest(before + 1)
    (first,) = [job for job in list_jobs()[: len(list_jobs()) - before] if job.id != second.id]
    shutil.rmtree(first.run.folder)
    chain.cancel()
    assert eventually(lambda: second.status().state == "cancelled")
    eventually(lambda: not driver(chain))
    with pytest.raises(LabError, match=first.id):  # and the chain is seen, for the tests below
        asyncio.run(chain.follow(nothing))


def test_who_only_looked_leaves_it_going(shared_queue: QueueUnderTest) -> None:
    before = len(list_jobs())
    chain = Chain.start([relax("a.npy", hold_at=1)])
    job = newest(before)

    async def look() -> None:
        following = asyncio.create_task(chain.follow(nothing))
        await asyncio.sleep(0)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following

    asyncio.run(look())
    assert not job.run.cancel_requested() and Chain.unseen() == [chain]
    let_go(job)
    eventually(lambda: not driver(chain))
    later = Chain.start([relax("b.npy")])
    assert Chain.unseen() == [chain, later]
    asyncio.run(later.follow(nothing))
    assert Chain.unseen() == []  # nobody is shown an older end after a newer one


def test_a_file_that_a_run_has_read_may_be_gone_when_its_chain_is_found_again(tmp_path: Path) -> None:
    np.save(tmp_path / "start.npy", np.zeros((SIDE, SIDE)))
    before = len(list_jobs())
    Chain.start([relax("a.npy", start=str(tmp_path / "start.npy"), hold_at=1), relax("b.npy", takes="a.npy")])
    job = newest(before)
    (tmp_path / "start.npy").unlink()

    async def find() -> list[str]:
        (found,) = Chain.unseen()
        following = asyncio.create_task(found.follow(nothing))
        await asyncio.sleep(0)
        let_go(job)
        return [one.link.file for one in await following]

    assert asyncio.run(find()) == ["a.npy", "b.npy"]
    assert Chain.unseen() == []


def test_an_error_that_ends_a_chain_is_reported_to_its_followers(tmp_path: Path) -> None:
    (tmp_path / "start.npy").touch()
    before = len(list_jobs())
    gone = relax("b.npy", start=str(tmp_path / "start.npy"))
    with pytest.raises(RequestError, match="is empty"):
        Chain.start([relax("a.npy"), gone])
    (tmp_path / "start.npy").write_bytes(b"numbers")
    chain = Chain.start([relax("a.npy", hold_at=1), gone])
    job = newest(before)
    (tmp_path / "start.npy").unlink()
    let_go(job)
    with pytest.raises(RequestError, match=r"start: .* does not exist"):
        asyncio.run(chain.follow(nothing))

    chain = Chain.start([relax("a.npy", hold_at=1), relax("b.npy", takes="a.npy")])
    job = newest(before + 1)
    assert Chain.unseen() == [chain]
    (process,) = driver(chain)
    os.kill(process.pid, signal.SIGKILL)
    let_go(job)
    with pytest.raises(LabError, match="The process that submits the stages has ended: it was killed"):
        asyncio.run(chain.follow(nothing))
    assert len(list_jobs()) == before + 2 and Chain.unseen() == []


def driver(chain: Chain) -> list[psutil.Process]:
    """The process of a chain, while it works."""
    return [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and str(chain.folder) in child.cmdline()
    ]
