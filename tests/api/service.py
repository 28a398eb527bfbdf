"""A service for tests: the real process, with toy networks and folders of its own, and a real HTTP client."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2

from tests.queue_for_tests import REPOSITORY, eventually

DOCS = REPOSITORY / "docs" / "service.md"
FEW_STEPS: dict[str, Any] = {"inference_steps": 1, "infer_frames": 16, "guidance_scale": 1.0}  # a clip in a moment


class Service:
    """A service and its folders: `root` is all that it may read and write, besides weights.

    Args:
        words: more arguments of `wanavatar-lab serve`.
    """

    def __init__(self, root: Path, *words: str) -> None:
        self.root, self._words = root, words
        self.runs, self.uploads = root / "runs", root / "data" / "uploads"
        self.log = root.parent / f"{root.name}.log"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"http://localhost:{self.port}"
        self.client = httpx2.Client(base_url=self.address, timeout=60)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Service":
        """Start the process, and wait until it answers."""
        words = ["serve", "--profile", "pocket", "--port", str(self.port), *self._words]
        command = [sys.executable, "-m", "wanavatar_lab", *words]
        environ = {**os.environ, "WANAVATAR_SERVER_ROOT": str(self.root), "WANAVATAR_RUNS_DIR": str(self.runs)}
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*command, *self._words],
                cwd=REPOSITORY,
                env=environ,
                stdout=log,
                stderr=log,
                start_new_session=True,  # as in a terminal of its own
            )
        eventually(self._answers, 60)
        return self

    def kill(self) -> None:
        """Kill it, as a power cut does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Let it end, and see that it does so by itself."""
        self.client.close()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, self.log.read_text()
        try:
            socket.create_connection(("localhost", self.port), 1).close()
        except OSError:
            return False
        return True

    def upload(self, kind: str, name: str, data: bytes) -> httpx2.Response:
        """Upload a file."""
        return self.client.post(f"/api/upload/{kind}", files={"file": (name, data)})

    def ended(self, task_id: str, seconds: float = 120.0) -> dict[str, Any]:
        """The status of a task, once it has ended."""
        until = time.monotonic() + seconds
        while (now := self.client.get(f"/api/status/{task_id}").json())["status"] in ("pending", "processing"):
            assert time.monotonic() < until, now
            time.sleep(0.05)
        found: dict[str, Any] = now
        return found


def documented(language: str) -> str:
    """The first example in that language of docs/service.md."""
    example = re.search(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert example is not None
    return example[1]
