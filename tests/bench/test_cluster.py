"""The bench of a cluster starts one of its own, and leaves nothing of it."""

import json
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.queue_for_tests import eventually
from wanavatar_lab.bench.__main__ import main


@pytest.mark.slow  # a cluster is started, and the shipped models are loaded twice
def test_a_few_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where Ray keeps the token of its cluster
    monkeypatch.setenv("WANAVATAR_WORKER_IDLE_SECONDS", "60")
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    few = ["--requests", "2", "--actors", "1", "--json", str(tmp_path / "figures.json")]
    assert main(["cluster", *few]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [row["name"] for row in figures["rows"]] == ["1 actor", "1 local worker"] and figures["requests"] == 2
    assert all(0 < row["warm_after"] <= row["seconds"] and row["runs_an_hour_warm"] > 0 for row in figures["rows"])
    eventually(lambda: {child.pid for child in psutil.Process().children(recursive=True)} <= before)
