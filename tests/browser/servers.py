"""Real JupyterLab and real Voilà on free ports of the loopback address, over a folder of the tests' own."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import nbformat

from tests.browser import kernel_log

REPOSITORY = Path(__file__).resolve().parents[2]
TOKEN = "of-the-tests"
START_SECONDS = 60.0
# What a server or a kernel may say that sounds worse than it is. Lab asks every fresh kernel for its widgets, which one
# that has not imported ipywidgets yet does not understand.
HARMLESS = re.compile(
    r"terminals|nbclassic|notebook_shim|jupyter_lsp|ServerApp\.preferred_dir|jupyter\.widget\.control"
)
# How a traceback of Tornado ends when a page is closed while the server writes to it.
CLOSED = re.compile(r"tornado\.(websocket\.WebSocketClosedError|iostream\.StreamClosedError)\b.*\Z")


def _with_what_follows(lines: list[str], number: int) -> str:
    """A line of a log; where a traceback begins there, all of it."""
    end, line = number + 1, lines[number]
    indent = " " * (len(line) - len(line.lstrip()))
    if line.lstrip().startswith("Traceback"):
        while end < len(lines) and lines[end].startswith(f"{indent} "):
            end += 1
        end += 1  # what was raised
    return "\n".join(lines[number:end])


@dataclass
class Server:
    """One server; `kind` is lab or voila."""

    kind: str
    folder: Path
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def complaints(self) -> list[str]:
        """Lines of its log that tell of an error, and every error of its kernels."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        bad = re.compile(r"Traceback|\[E |ERROR|CRITICAL|Exception|wrote error| 500 ")
        found = [number for number, line in enumerate(lines) if bad.search(line)]
        told = [_with_what_follows(lines, number) for number in found if not HARMLESS.search(lines[number])]
        told = [each for each in told if not CLOSED.search(each)]
        return told + [line for line in kernel_log.lines(self.folder) if not HARMLESS.search(line)]

    def kernels(self) -> set[int]:
        """The process ids of its kernels."""
        found = set()
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended meanwhile
            if b"ipykernel_launcher" in words and parent == self.process.pid:
                found.add(int(folder.name))
        return found

    def stop(self) -> None:
        for kernel in self.kernels():
            os.kill(kernel, signal.SIGKILL)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def start_lab(folder: Path, environ: Mapping[str, str]) -> Server:
    port = free_port()
    words = [
        "jupyterlab",
        "--ip=127.0.0.1",
        f"--port={port}",
        "--no-browser",
        f"--ServerApp.root_dir={folder}",
        f"--IdentityProvider.token={TOKEN}",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.expose_app_in_browser=True",  # as window.jupyterapp, which tells whether a kernel is ready
        *(["--allow-root"] if os.geteuid() == 0 else []),
    ]
    settings = str(REPOSITORY / "wanavatar_lab" / "ui" / "lab_config")
    answers = f"http://127.0.0.1:{port}/api"
    return started("lab", folder, words, port, {**environ, "JUPYTER_CONFIG_PATH": settings}, answers)


def start_voila(
    folder: Path, environ: Mapping[str, str], notebook: str = "", options: Iterable[str] = ("--max_kernels=100",)
) -> Server:
    """Voilà on one notebook, as `make web` has it, or on all of them.

    More kernels than by default, since one server has many pages here, and a page that a test closes does not say so.
    """
    port = free_port()
    words = [
        "wanavatar_lab.ui.web",
        f"notebooks/{notebook}" if notebook else ".",
        "--template=wanavatar",
        "--Voila.ip=127.0.0.1",
        f"--port={port}",
        "--no-browser",
        *options,
    ]
    template = str(REPOSITORY / "wanavatar_lab" / "ui" / "voila_templates")
    answers = f"http://127.0.0.1:{port}/voila/static/voila.js"
    return started("voila", folder, words, port, {**environ, "JUPYTER_PATH": template}, answers)


def started(
    kind: str, folder: Path, words: Iterable[str], port: int, environ: Mapping[str, str], answers: str
) -> Server:
    log = folder / f".{kind}-{port}.log"
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=folder,
            env={**os.environ, **kernel_log.prepare(folder), **environ},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(kind, folder, process, port, log)
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(answers, timeout=5).close()
            return server
        except urllib.error.HTTPError:
            return server  # it answers, if only that it wants the token
        except OSError:
            if time.monotonic() > end or process.poll() is not None:
                server.stop()
                raise AssertionError(f"{kind} did not start:\n{log.read_text()[-3000:]}") from None
            time.sleep(0.1)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def write_notebook(path: Path, *cells: str) -> None:
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(cell) for cell in cells]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)
