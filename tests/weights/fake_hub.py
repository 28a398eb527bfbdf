"""A Hugging Face hub on the loopback address: the parts of its API that downloads use, and what can go wrong there."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".pth", ".safetensors", ".task")  # what the hub keeps in LFS
PATIENCE = 60  # seconds
BLOCK = 16384


@dataclass
class Hub:
    """What it has, how it misbehaves, and what it has served.

    Attributes:
        repositories: the files of each, by path.
        gated: repositories that ask for a token.
        token: the one that opens them.
        status: an answer to every request for files of a repository, in place of them.
        listing_status: an answer to every request for what a repository holds, in place of that.
        stalls: files that stop coming after so many bytes, until `let_go`, and then no more.
        breaks: files whose connection is closed after so many bytes, once.
        damaged: files that arrive with their first byte changed.
        served: bytes sent of each file.
        starts: where each request for a file began.
    """

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = "hf_let_me_in"
    status: dict[str, int] = field(default_factory=dict)
    listing_status: dict[str, int] = field(default_factory=dict)
    stalls: dict[str, int] = field(default_factory=dict)
    breaks: dict[str, int] = field(default_factory=dict)
    damaged: set[str] = field(default_factory=set)
    served: Counter[str] = field(default_factory=Counter)
    starts: dict[str, list[int]] = field(default_factory=dict)
    let_go: threading.Event = field(default_factory=threading.Event)
    stalled: threading.Event = field(default_factory=threading.Event)
    endpoint: str = ""

    def listing(self, name: str) -> dict[str, Any]:
        """A repository as `/api/models/<name>?blobs=true` answers."""
        siblings: list[dict[str, Any]] = []
        for path, data in self.repositories[name].items():
            blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            file: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": blob}
            if path.endswith(LARGE):
                file["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            siblings.append(file)
        return {"id": name, "sha": COMMIT, "siblings": siblings, "private": False, "gated": name in self.gated}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        hub: Hub = self.server.hub  # type: ignore[attr-defined]
        return hub

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlparse(self.path).path)
        if path.startswith("/api/models/"):
            name = path.removeprefix("/api/models/").partition("/revision/")[0]
            if name in self.hub.listing_status:
                self._refuse(self.hub.listing_status[name], "")
            elif name not in self.hub.repositories:
                self._refuse(404, "RepoNotFound")
            else:
                self._send(json.dumps(self.hub.listing(name)).encode(), "application/json")
            return
        name, _, rest = path.removeprefix("/").partition("/resolve/")
        file = rest.partition("/")[2]
        if name in self.hub.status:
            self._refuse(self.hub.status[name], "")
        elif name in self.hub.gated and self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._refuse(403 if "Authorization" in self.headers else 401, "GatedRepo")
        elif file not in self.hub.repositories.get(name, {}):
            self._refuse(404, "EntryNotFound")
        else:
            self._stream(file, self.hub.repositories[name][file])

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, data: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, file: str, data: bytes) -> None:
        hub, asks = self.hub, self.command == "HEAD"
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").partition("-")[0])
        if not asks:
            hub.starts.setdefault(file, []).append(start)
        if file in hub.damaged:
            data = bytes([data[0] ^ 1]) + data[1:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if asks:
            return
        stop = hub.stalls.pop(file, None)
        cut = hub.breaks.pop(file, None)
        for position in range(start, len(data), BLOCK):
            if stop is not None and position >= stop:
                hub.stalled.set()
                hub.let_go.wait(PATIENCE)
                self.close_connection = True
                return
            if cut is not None and position >= cut:
                self.close_connection = True
                return
            block = data[position : position + BLOCK]
            hub.served[file] += len(block)
            try:
                self.wfile.write(block)
            except OSError:  # the client has disconnected
                self.close_connection = True
                return


def open_hub() -> tuple[Hub, ThreadingHTTPServer]:
    """A hub that listens, and its server to shut down."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    hub = Hub(endpoint=f"http://127.0.0.1:{server.server_address[1]}")
    server.hub = hub  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    return hub, server


class Client:
    """The command in a process of its own, since huggingface_hub reads its variables when it is imported."""

    def __init__(self, hub: Hub, weights: Path) -> None:
        self.hub, self.weights = hub, weights
        own = ("WANAVATAR_", "HF_", "HUGGING")
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(own)},
            "PYTHONPATH": str(ROOT),
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(weights.parent / "hf_home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "*",
            "WANAVATAR_WEIGHTS": str(weights),
        }

    def start(self, *words: str, before: str = "", **more: str) -> subprocess.Popen[str]:
        """Begin `wanavatar-lab weights <words>`; `then` begins another command, `before` is Python to do first."""
        code = (
            f"import sys\nfrom wanavatar_lab.cli import main\n{before}\n"
            "codes = [main(['weights', *words.split()]) for words in ' '.join(sys.argv[1:]).split(' then ')]\n"
            "sys.exit(codes[-1])"
        )
        return subprocess.Popen(
            [sys.executable, "-c", code, *words],
            env={**self.environ, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *words: str, before: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        """Do it and wait."""
        process = self.start(*words, before=before, **more)
        out, err = process.communicate(timeout=PATIENCE)
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def json(self, *words: str, **more: str) -> Any:
        """What it answers to machines."""
        return json.loads(self(*words, "--json", **more).stdout)

    def files(self, place: str) -> dict[str, bytes]:
        """The files of a folder under the weights folder."""
        folder = self.weights / place
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
