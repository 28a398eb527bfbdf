"""The service against its own OpenAPI schema, by schemathesis with all of its checks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.service import Service

CASES = 2000


@pytest.mark.slow  # thousands of requests
def test_every_endpoint_keeps_its_schema(service: Service, tmp_path: Path) -> None:
    config = Path(__file__).with_name("schemathesis.toml")
    options = [
        "--checks",
        "all",
        "--max-examples",
        "25",
        "--seed",
        "1",
        "--no-shrink",
        "--suppress-health-check",
        "all",
    ]
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run", *options]
    done = subprocess.run(
        [*command, f"{service.address}/openapi.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]
    generated = re.search(r"([\d,]+) generated", done.stdout)
    assert generated is not None and int(generated[1].replace(",", "")) >= CASES
    assert "Traceback" not in service.log.read_text()
