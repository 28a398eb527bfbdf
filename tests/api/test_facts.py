"""GET /api/health: how many GPUs share a run."""

import asyncio
from pathlib import Path

import httpx2
import pytest

from wanavatar_lab.api import facts
from wanavatar_lab.api.app import create_app
from wanavatar_lab.api.options import Options


@pytest.mark.parametrize(
    ("device", "gpus", "there", "world"),
    [
        ("cuda", "auto", 4, 4),
        ("cuda", "auto", 1, 1),
        ("cpu", "auto", 4, 1),
        ("cuda", "2", 4, 2),
        ("cpu", "2", 0, 2),
        ("cuda", "1", 4, 1),
        ("cuda:1", "auto", 4, 1),
    ],
)
def test_processes_that_share_a_run(
    device: str, gpus: str, there: int, world: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANAVATAR_RUNS_DIR", str(tmp_path / "runs"))
    monkeypatch.setenv("WANAVATAR_DEVICE", device)
    monkeypatch.setenv("WANAVATAR_GPUS", gpus)
    for number in range(there):
        (tmp_path / "gpus" / str(number)).mkdir(parents=True)
    monkeypatch.setattr(facts, "GPUS", tmp_path / "gpus")

    async def asking() -> httpx2.Response:
        transport = httpx2.ASGITransport(app=create_app(Options(profile="pocket")))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get("/api/health")

    found = asyncio.run(asking()).json()
    assert (found["world_size"], found["sequence_parallel"]) == (world, world > 1)
