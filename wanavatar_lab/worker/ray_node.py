"""What runs on a node of a Ray cluster: an actor around a worker process, the same as on one machine.

The actor starts `wanavatar_lab.worker.process` as the supervisor does, so that models stay warm, and logs, crashes and
groups of ranks are as there. Where the node sees the runs folder, runs are executed in it. Elsewhere a run's folder is
made in the node's temporary folder and removed when it was fetched. Nothing here imports Ray or torch.
"""

import importlib.metadata
import os
import platform
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from wanavatar_lab import locks
from wanavatar_lab.files import entries, files_below, remove, remove_if_possible, stat_if_possible
from wanavatar_lab.runs.run import PREVIEW
from wanavatar_lab.settings import read_settings
from wanavatar_lab.worker.local_engine import Worker

POLL = 0.05
# folders that differ between machines: what a node sets itself counts, in its environment or its settings file
_OF_THE_NODE = {"weights_dir", "cache_dir"}
_IN_USE = ".in-use"  # held by the actor whose folder it is, so that a later one can remove what a killed one left


class NodeWorker:
    """One place of the cluster, as an actor. Calls may overlap; `look` waits, and no other does.

    Args:
        settings: environment variables of the worker.
        runs_dir: the runs folder of the dispatcher.
        token: a file in it that shows whether this node sees the same folder.
        processors: how many this actor has.
        gpu_share: its part of the GPUs of the node, by which it takes threads; 0 without a GPU.
    """

    def __init__(
        self, settings: Mapping[str, str], runs_dir: str, token: str, processors: int, gpu_share: float
    ) -> None:
        here = read_settings()
        own = {f"WANAVATAR_{name.upper()}": str(getattr(here, name)) for name in _OF_THE_NODE & here.model_fields_set}
        # the package as the actor found it, also where only Ray's search path had it
        package = str(Path(__file__).resolve().parents[2])
        python_path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        threads = max(processors, int((os.cpu_count() or 1) * gpu_share))
        more = {"PYTHONPATH": python_path, "OMP_NUM_THREADS": str(threads)}
        self._settings = {**settings, **own, **more}
        self.shared = (Path(runs_dir) / token).exists()
        self._root = Path(runs_dir) if self.shared else _own_folder()
        self._worker: Worker | None = None
        self._run_id = ""  # that was given last
        self._news: str | None = None  # of it
        self._code = 0
        self._lock = threading.RLock()
        # the system kills a worker when the thread ends that started it, so they are started by one that does not
        self._starter = ThreadPoolExecutor(1)

    def hello(self) -> dict[str, Any]:
        """What the dispatcher has to know: name, whether it sees the runs folder, its folder, versions."""
        return {
            "node": platform.node(),
            "shared": self.shared,
            "folder": str(self._root),
            "version": importlib.metadata.version("wanavatar-lab"),
        }

    def give(self, run_id: str) -> None:
        """Have the worker execute a run whose folder is here."""
        if self._worker is not None and not self._worker.is_alive():
            self.kill()
        with self._lock:
            self._run_id, self._news, self._code = run_id, None, 0
        if self._worker is None:
            self._worker = self._starter.submit(Worker, self._root, self._settings).result()
        self._worker.give(run_id)

    def look(self, run_id: str, seconds: float, seen: Mapping[str, Any]) -> dict[str, Any]:
        """Wait at most so long for the end of the run, or for a file of it that has changed.

        Args:
            run_id: that was given. A look at one that was killed may still wait when the next one is given: it changes
                nothing then.
            seconds: to wait.
            seen: the `files` of the last answer; empty where the dispatcher sees the files itself.

        Returns:
            `news`, done, died or None; `code`, the return code of a worker that died; `files`, name to what changes
            with it.
        """
        deadline = time.monotonic() + seconds
        while True:
            files = {} if self.shared else self._watched(run_id)
            with self._lock:
                if run_id != self._run_id:
                    return {"news": "died", "code": self._code, "files": files}
                if self._news is None:  # kept, since an answer may be lost on its way
                    self._news = "died" if self._worker is None else self._worker.news(0.0)
                if self._news == "died":
                    self.kill()
                if self._news is not None or files != seen or time.monotonic() >= deadline:
                    return {"news": self._news, "code": self._code, "files": files}
            time.sleep(POLL)

    def kill(self) -> int:
        """Kill the worker with all that it started; its return code. The next run gets a fresh one."""
        with self._lock:
            if self._worker is not None:
                self._code = self._worker.kill()
                self._worker = None
            return self._code

    def write(self, run_id: str, name: str, data: bytes, offset: int) -> None:
        """Write a part of a file of a run, the first one with `offset` 0."""
        path = self._root / run_id / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "r+b" if offset else "wb") as file:
            file.seek(offset)
            file.write(data)

    def read(self, run_id: str, name: str, offset: int, size: int) -> bytes:
        """Read a part of a file of a run, or with size -1 all that follows; nothing at its end, or if it is gone."""
        try:
            with open(self._root / run_id / name, "rb") as file:
                file.seek(offset)
                return file.read(size)
        except FileNotFoundError:
            return b""

    def names(self, run_id: str) -> list[str]:
        """The files of a run, relative to its folder, with `/`."""
        folder = self._root / run_id
        return [path.relative_to(folder).as_posix() for path in files_below(folder)]

    def drop(self, run_id: str) -> None:
        """Remove the folder of a run that was fetched."""
        if not self.shared:
            remove(self._root / run_id)

    def _watched(self, run_id: str) -> dict[str, tuple[int, int, int]]:
        found = {name: stat_if_possible(self._root / run_id / name) for name in ("status.json", "log.txt", PREVIEW)}
        return {name: (at.st_ino, at.st_mtime_ns, at.st_size) for name, at in found.items() if at is not None}


def _own_folder() -> Path:
    """A folder for runs on this node; those of actors that were killed are removed."""
    base = Path(tempfile.gettempdir()) / f"wanavatar-lab-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    with locks.locked(base / ".lock"):  # none is removed between its making and its lock
        for left in entries(base, "runs-*"):
            if not locks.is_locked(left / _IN_USE):
                remove_if_possible(left)
        folder = Path(tempfile.mkdtemp(dir=base, prefix="runs-"))
        locks.take(folder / _IN_USE, wait=True)
    return folder
