"""How long the service takes to answer while it has much to do.

A service of its own is started in a temporary folder, with the pocket models. While a talking clip is made, clients ask
for its status, each on a connection of its own and so often as a front end does, and others upload one photo or
recording after the other. Client and service share this machine, so what the client takes counts too.
"""

import asyncio
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
from PIL import Image

from wanavatar_lab.errors import LabError
from wanavatar_lab.settings import CHECKOUT
from wanavatar_lab.worker.queue import RunQueue

PHOTO = (2000, 1500)  # pixels; as a JPEG of noise about 2 MB
_LONGEST_START = 60.0  # seconds


def measure_service(pollers: int, uploaders: int, seconds: float, interval: float) -> dict[str, Any]:
    """Times of answers in seconds, and memory of the service in bytes.

    Args:
        pollers: clients that ask for the status.
        uploaders: clients that upload, each the next file when the one before is answered.
        seconds: for which this goes on.
        interval: seconds between two questions of a client.
    """
    with tempfile.TemporaryDirectory() as folder, _service(Path(folder)) as (process, port):
        return asyncio.run(_measure(psutil.Process(process.pid), port, pollers, uploaders, seconds, interval))


@contextmanager
def _service(root: Path) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """A service in a folder of its own, and its port."""
    samples = CHECKOUT / "data" / "samples"
    shutil.copytree(samples, root / "data" / "samples", ignore=shutil.ignore_patterns("screens"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {**os.environ, "WANAVATAR_SERVER_ROOT": str(root), "WANAVATAR_RUNS_DIR": str(root / "runs")}
    words = ["serve", "--profile", "pocket", "--port", str(port), "--no-page"]
    process = subprocess.Popen([sys.executable, "-m", "wanavatar_lab", *words], env=environ, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + _LONGEST_START
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    raise LabError("The service does not start: `wanavatar-lab serve` says why.") from None
                time.sleep(0.05)
        yield process, port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        if (ids := RunQueue(root / "runs").process_ids()) is not None and psutil.pid_exists(ids.supervisor):
            supervisor = psutil.Process(ids.supervisor)
            supervisor.terminate()
            supervisor.wait(30)


async def _measure(
    service: Any, port: int, pollers: int, uploaders: int, seconds: float, interval: float
) -> dict[str, Any]:
    draw, files = random.Random(0), _files()
    fields = {"image_path": "samples/avatar_woman.png", "audio_path": "samples/english_female.wav", "seed": 1}
    first = await _Connection.open(port)
    _, made = await first.ask("POST", "/api/generate", json.dumps(fields).encode(), "application/json")
    task = json.loads(made)["task_id"]
    while json.loads((await first.ask("GET", f"/api/status/{task}"))[1])["status"] == "pending":
        await asyncio.sleep(0.1)
    before, until = service.memory_info().rss, time.monotonic() + seconds
    polls, uploads, memory = list[tuple[float, int]](), list[tuple[float, int]](), [before]
    await asyncio.gather(
        *(_poll(port, task, until, interval, draw.random() * interval, polls) for _ in range(pollers)),
        *(_upload(port, until, files[number % 2], uploads) for number in range(uploaders)),
        _watch(service, until, memory),
    )
    last = await _Connection.open(port)  # the first one was closed since nothing was asked on it
    status = json.loads((await last.ask("GET", f"/api/status/{task}"))[1])
    return {
        "status": _figures(polls),
        "upload": _figures(uploads),
        "memory_before": before,
        "memory_most": max(memory),
        "run": {"status": status["status"], "progress": status["progress"]},
        "processors": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


class _Connection:
    """HTTP/1.1 on one connection, as little of it as is needed, since the client shares the processors."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> "_Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, method: str, path: str, body: bytes = b"", kind: str = "") -> tuple[int, bytes]:
        """The status and body of an answer."""
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        self._writer.write((head + (f"Content-Type: {kind}\r\n" if kind else "") + "\r\n").encode() + body)
        await self._writer.drain()
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        length = next(int(line.partition(":")[2]) for line in lines if line.lower().startswith("content-length:"))
        return int(lines[0].split()[1]), await self._reader.readexactly(length)


async def _poll(
    port: int, task: str, until: float, interval: float, start: float, found: list[tuple[float, int]]
) -> None:
    connection = await _Connection.open(port)
    await asyncio.sleep(start)
    while (begun := time.monotonic()) < until:
        status, _ = await connection.ask("GET", f"/api/status/{task}")
        found.append((time.monotonic() - begun, status))
        await asyncio.sleep(interval)


async def _upload(port: int, until: float, file: tuple[str, str, bytes], found: list[tuple[float, int]]) -> None:
    kind, name, data = file
    head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
    form = head + data + b"\r\n--b--\r\n"
    connection = await _Connection.open(port)
    while (begun := time.monotonic()) < until:
        status, answer = await connection.ask("POST", f"/api/upload/{kind}", form, "multipart/form-data; boundary=b")
        found.append((time.monotonic() - begun, status))
        if status == 200:
            await connection.ask("DELETE", f"/api{json.loads(answer)['url']}")


async def _watch(service: Any, until: float, memory: list[int]) -> None:
    while time.monotonic() < until:
        memory.append(service.memory_info().rss)
        await asyncio.sleep(0.2)


def _files() -> list[tuple[str, str, bytes]]:
    """A photo and a recording."""
    noise = np.random.default_rng(0).integers(0, 255, (PHOTO[1], PHOTO[0], 3), dtype=np.uint8)
    photo = io.BytesIO()
    Image.fromarray(noise).save(photo, "JPEG")
    voice = (CHECKOUT / "data" / "samples" / "english_female.wav").read_bytes()
    return [("image", "photo.jpg", photo.getvalue()), ("audio", "voice.wav", voice)]


def _figures(answers: Sequence[tuple[float, int]]) -> dict[str, Any]:
    times = np.array([taken for taken, _ in answers]) if answers else np.zeros(1)
    median, high = np.percentile(times, [50, 99])
    return {
        "answers": len(answers),
        "failed": sum(status != 200 for _, status in answers),
        "median": round(float(median), 4),
        "p99": round(float(high), 4),
        "most": round(float(times.max()), 4),
    }
