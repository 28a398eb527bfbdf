"""Workers on this machine: one, or where it has several GPUs one on each while several runs wait.

An engine says where the next run goes and starts the workers; `worker/supervisor.py` gives them their runs.
"""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Literal

from wanavatar_lab.memory.machine import total_host_bytes
from wanavatar_lab.memory.sharing import runs_at_once
from wanavatar_lab.profiles import Profile
from wanavatar_lab.settings import Settings
from wanavatar_lab.worker.child_process import has_exited
from wanavatar_lab.worker.engine import Place
from wanavatar_lab.worker.rank_group import threads_of

_DRIVER = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU of the machine
_QUERY_SECONDS = 30.0  # a driver that keeps no state takes seconds to answer
# How often GNU OpenMP's threads look for the end of a wait before they sleep, by default 300,000 times. Where other
# programs want the cores too, they spin away the time that the thread needs for which they wait: a pass of the pocket
# S2V network takes several times as long. On free cores 1,000 are as fast; threads that sleep at once are slower.
SLEEPING_THREADS = {"GOMP_SPINCOUNT": "1000"}


class Worker:
    """A worker process as its supervisor sees it, from its start until it is killed.

    Attributes:
        settings: the environment variables that it was given.
        pid: its process id, which is also that of its process group.
    """

    def __init__(self, runs_dir: Path, settings: Mapping[str, str]) -> None:
        self.settings = dict(settings)
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-P", "-m", "wanavatar_lab.worker.process", str(runs_dir), str(os.getpid())],
                stdin=theirs.fileno(),
                env={**SLEEPING_THREADS, **os.environ, **settings, "WANAVATAR_RUNS_DIR": str(runs_dir)},
                start_new_session=True,  # a process group of its own, so that what a stage starts is killed with it
            )
        self.pid = self._process.pid

    def give(self, run_id: str, gpus: int = 0) -> None:
        """Have it execute a run. If it is dead, `news` will say so.

        Args:
            run_id: of the run.
            gpus: how many it may use; 0 for as many as it sees.
        """
        with suppress(ConnectionError):
            self._channel.sendall(f"{run_id} {gpus}\n".encode())

    def news(self, seconds: float) -> Literal["done", "died"] | None:
        """Wait at most `seconds` for the end of the run that it was given, or its own."""
        ready, _, _ = select.select([self._channel], [], [], seconds)
        with suppress(ConnectionError):  # it died before it read the run's id
            if ready and self._channel.recv(1024):
                return "done"
        # a process forked by a stage may keep the socket open, so the worker's death does not always close it
        return "died" if ready or not self.is_alive() else None

    def is_alive(self) -> bool:
        """Whether it can take a run."""
        return self._process.returncode is None and not has_exited(self.pid)

    def kill(self) -> int:
        """Kill it and all that it started, now; returns its return code, an earlier one if it was dead already."""
        if self._process.returncode is None:
            # not after it was waited for, when its id may belong to another process
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
            self._channel.close()
        return self._process.returncode


class LocalEngine:
    """Chooses a place on this machine for each run."""

    def choose(
        self, settings: Settings, profile: Profile, places: Sequence[Place], *, others: bool
    ) -> tuple[Place, tuple[str, ...]] | None:
        """The place of the next run, one that is idle or a new one, and its GPUs; None while it has to wait."""
        gpus = gpus_to_choose(settings)
        busy = [place for place in places if place.run is not None]
        most = runs_at_once(profile, len(gpus), total_host_bytes(), settings.workers)
        if len(busy) >= most or (gpus and not all(place.uses for place in busy)):  # on which GPU is theirs to say
            return None
        wanted = settings.for_worker()
        if most > 1 and not gpus:  # they share the cores
            wanted["OMP_NUM_THREADS"] = str(threads_of(most))
        idle = [place for place in places if place.run is None]
        if not gpus:
            alike = [place for place in idle if place.settings == wanted and not place.gpus]
            return (alike[0] if alike else Place(wanted)), ()
        alone = not busy and not others
        count = (len(gpus) if alone else 1) if settings.gpus == "auto" else min(int(settings.gpus), len(gpus))
        taken = {gpu for place in busy for gpu in place.uses}
        free = [gpu for gpu in gpus if gpu not in taken]
        if len(free) < count:
            return None
        for place in idle:
            if place.settings == wanted and len(place.gpus) >= count and taken.isdisjoint(place.gpus[:count]):
                return place, place.gpus[:count]
        owned = {place.gpus[0] for place in idle if place.gpus}
        free.sort(key=lambda gpu: gpu in owned)  # rather one where no worker holds models
        # a run by itself may have its text encoder on a second one
        sees = (*free, *sorted(taken)) if alone or count > 1 else (free[0],)
        return Place(wanted, sees), sees[:count]

    def start(self, place: Place, runs_dir: Path) -> Worker:
        """The worker of a place that has none."""
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(place.gpus)} if place.gpus else {}
        return Worker(runs_dir, place.settings | visible)

    def close(self) -> None:
        """Nothing is left."""


def gpus_to_choose(settings: Settings) -> tuple[str, ...]:
    """The GPUs among which a run's can be chosen, as CUDA_VISIBLE_DEVICES names them; none where there is no choice.

    So it is where the settings name a device, for a single GPU, and where GPUs differ, since a run that one of them can
    make may be too large for another.
    """
    if settings.device not in ("auto", "cuda"):
        return ()
    return visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))


@cache
def visible_gpus(visible: str | None) -> tuple[str, ...]:
    """The GPUs of this machine if they are several of one model, without torch; else none.

    Args:
        visible: CUDA_VISIBLE_DEVICES, whose names are kept; None where it is not set.
    """
    if len(os.listdir(_DRIVER) if _DRIVER.is_dir() else ()) < 2:
        return ()
    command = ["nvidia-smi", "--query-gpu=uuid,name,mig.mode.current", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=_QUERY_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    rows = [[word.strip() for word in line.split(",")] for line in answer.splitlines() if line.strip()]
    if len({tuple(row[1:]) for row in rows}) != 1 or rows[0][-1] == "Enabled":  # parts of GPUs have names of their own
        return ()
    names = [row[0] for row in rows]
    if visible is not None:
        names = [name.strip() for name in visible.split(",") if name.strip() and not name.strip().startswith("-")]
    return tuple(names) if len(names) > 1 else ()
