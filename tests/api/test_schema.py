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
    words = "--checks all --max-examples 15 --seed 1 --no-shrink --suppress-health-check all"
    # /v1/videos/sync answers when a clip is made
    words += " --max-response-time 120 --request-timeout 240"
    command = [str(Path(sys.executable).with_name("schemathesis")), "--config-file", str(config), "run"]
    done = subprocess.run(
        [*command, f"{service.address}/openapi.json", *words.split()],
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
