"""Programs that a cell waits for: their output, their errors, and that they end when the cell is cancelled."""

import asyncio

import psutil  # type: ignore[import-untyped]
import pytest

from training.ui.run_module import run_module
from wanavatar_lab.errors import LabError

SLEEPS = ["-n", "1", "-r", "1", "import os, time; print(os.getpid(), flush=True); time.sleep(60)"]


def test_output_is_forwarded_line_by_line() -> None:
    lines: list[str] = []
    asyncio.run(run_module("timeit", ["-n", "1", "-r", "1", "print('one\\ntwo')"], lines.append))
    assert lines[:2] == ["one", "two"]


def test_the_last_line_of_the_errors_is_raised() -> None:
    with pytest.raises(LabError, match=r"nowhere\.json"):
        asyncio.run(run_module("json.tool", ["nowhere.json"]))


def test_cancelling_the_wait_ends_the_process() -> None:
    lines: list[str] = []

    async def stopped() -> None:
        work = asyncio.ensure_future(run_module("timeit", SLEEPS, lines.append))
        while not lines:
            await asyncio.sleep(0.01)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(stopped())
    assert not psutil.pid_exists(int(lines[0]))
