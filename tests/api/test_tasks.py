"""Statuses that many clients ask for."""

import asyncio
import threading
from pathlib import Path

import pytest

from tests.ui import made_runs
from wanavatar_lab.api import tasks
from wanavatar_lab.api.options import Options
from wanavatar_lab.requests import TextToImage
from wanavatar_lab.runs.status import Status


def test_one_reads_for_all_however_long_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that is slow, clients that poll must not pile up readings of the same status."""
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path))
    monkeypatch.setattr(tasks, "FRESH", 0.0)
    run = made_runs.ended_run(TextToImage(profile="pocket", prompt="a"))
    goes_on, reads, read = threading.Event(), list[str](), tasks._status

    def slow(task_id: str) -> Status:
        reads.append(task_id)
        goes_on.wait()
        return read(task_id)

    monkeypatch.setattr(tasks, "_status", slow)

    async def ask() -> list[tasks.Task]:
        of_service = tasks.Tasks(Options(profile="pocket"))
        try:
            asking = []
            for _ in range(20):
                asking.append(asyncio.ensure_future(of_service.task(run.id)))
                await asyncio.sleep(0)
            goes_on.set()
            return await asyncio.gather(*asking)
        finally:
            await of_service.close()

    assert {task.status.state for task in asyncio.run(ask())} == {"succeeded"}
    assert reads == [run.id]
