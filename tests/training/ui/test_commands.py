"""Programs that a cell waits for: what they say, how they fail, and that they end with who waits."""

import asyncio

import psutil  # type: ignore[import-untyped]
import pytest

from training.ui.preparing import run_module
from wanavatar_lab.errors import LabError

SLEEPS = ["-n", "1", "-r", "1", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]


def test_what_it_prints_is_heard_line_by_line() -> None:
    heard: list[str] = []
    asyncio.run(run_module("timeit", ["-n", "1", "-r", "1", "print('one\\ntwo')"], heard.append))
    assert heard[:2] == ["one", "two"]


def test_the_last_line_says_why_it_failed() -> None:
    with pytest.raises(LabError, match=r"nowhere\.json"):
        asyncio.run(run_module("json.tool", ["nowhere.json"]))


def test_who_stops_waiting_ends_it() -> None:
    heard: list[str] = []

    async def stopped() -> None:
        work = asyncio.ensure_future(run_module("timeit", SLEEPS, heard.append))
        while not heard:
            await asyncio.sleep(0.01)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(stopped())
    assert not psutil.pid_exists(int(heard[0]))
