"""The bench of the service starts one of its own, and leaves nothing of it."""

import json
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from wanavatar_lab.bench.__main__ import main


@pytest.mark.slow  # the shipped models are loaded
def test_a_few_clients(tmp_path: Path) -> None:
    few = "--pollers 3 --uploaders 2 --seconds 2 --interval 0.2".split()
    assert main(["service", *few, "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["run"]["status"] == "processing"
    for name in ("status", "upload"):
        found = figures[name]
        assert found["answers"] > 0 and found["failed"] == 0 and 0 < found["median"] <= found["p99"] <= found["most"]
    assert figures["memory_most"] >= figures["memory_before"] > 0
    assert [child.cmdline() for child in psutil.Process().children() if "serve" in child.cmdline()] == []
