"""The bench of a cluster starts one of its own, and leaves nothing of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.queue_for_tests import REPOSITORY, eventually


@pytest.mark.slow  # a cluster is started, and the shipped models are loaded twice
def test_a_few_requests(tmp_path: Path) -> None:
    # in a process of its own, since Ray keeps the token of its first cluster, which it writes into the home folder
    environ = os.environ | {"HOME": str(tmp_path), "WANAVATAR_WORKER_IDLE_SECONDS": "60"}
    figures = tmp_path / "figures.json"
    few = ["--requests", "2", "--actors", "1", "--json", str(figures)]
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    subprocess.run(
        [sys.executable, "-m", "wanavatar_lab.bench", "cluster", *few], cwd=REPOSITORY, env=environ, check=True
    )
    found = json.loads(figures.read_text())
    assert [row["name"] for row in found["rows"]] == ["1 actor", "1 local worker"] and found["requests"] == 2
    assert all(0 < row["warm_after"] <= row["seconds"] and row["runs_an_hour_warm"] > 0 for row in found["rows"])
    eventually(lambda: {child.pid for child in psutil.Process().children(recursive=True)} <= before)
