"""Workers on the nodes of a Ray cluster: as many as the cluster has room for.

    WANAVATAR_ENGINE=ray              the cluster of this machine
                     10.0.0.1:6379    another one, whose network this machine is in
                     ray://host:10001 another one, by its client server

The supervisor stays the dispatcher: it gives runs to places, here those of a cluster. What speaks to Ray is a process
of its own (`worker/ray_driver.py`), which serves all places. Nothing here imports Ray.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wanavatar_lab.profiles import PROFILES, Profile
from wanavatar_lab.settings import Settings
from wanavatar_lab.worker.child_process import has_exited
from wanavatar_lab.worker.engine import Place

INSTALL = ".venv/bin/uv pip install -e '.[ray]'"
_KILL_SECONDS = 20.0  # for the cluster to say that a worker is dead
_CARRIED = ("WANAVATAR_EXTRA_STAGES",)  # what a worker reads besides the settings


class Driver:
    """The process that speaks to the cluster, as the supervisor sees it.

    Attributes:
        pid: its process id, which is also that of its process group.
        nodes: CPUs, GPUs and main memory of the cluster's nodes, as told last; None before it is connected.
    """

    def __init__(self, runs_dir: Path, address: str) -> None:
        self.nodes: list[dict[str, float]] | None = None
        self._control, theirs = socket.socketpair()
        self._unread, self._failed = b"", False
        with theirs:
            words = [str(runs_dir), str(os.getpid()), address]
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-P", "-m", "wanavatar_lab.worker.ray_driver", *words],
                stdin=theirs.fileno(),
                start_new_session=True,
            )
        self.pid = self._process.pid

    def place(self) -> socket.socket:
        """A channel for another place."""
        ours, theirs = socket.socketpair()
        with theirs, suppress(ConnectionError):  # a dead driver's worker says so
            socket.send_fds(self._control, [b"p"], [theirs.fileno()])
        return ours

    def listen(self) -> None:
        """Read what it has said of the cluster."""
        while select.select([self._control], [], [], 0.0)[0]:
            data = b""
            with suppress(ConnectionError):
                data = self._control.recv(65536)
            if not data:
                self._failed = True
                return
            *lines, self._unread = (self._unread + data).split(b"\n")
            for line in lines:
                told = json.loads(line)
                self.nodes = told.get("nodes", self.nodes)
                self._failed = self._failed or "failed" in told

    def has_exited(self) -> bool:
        """Whether it is dead."""
        return self._process.returncode is not None or has_exited(self.pid)

    def is_alive(self) -> bool:
        """Whether its places can take runs."""
        if not self.has_exited():
            self.listen()
            return not self._failed
        return False

    def kill(self) -> int:
        """End it, and with it all actors; its return code."""
        if self._process.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
            self._control.close()
        return self._process.returncode


class RayWorker:
    """A worker on the cluster as its supervisor sees it, with the methods of `local_engine.Worker`.

    Attributes:
        settings: the environment variables that it is given.
        pid: the process id of the driver, which is on this machine.
    """

    def __init__(self, driver: Driver, settings: Mapping[str, str], need: Mapping[str, int]) -> None:
        self.settings, self.pid = dict(settings), driver.pid
        self._driver, self._need = driver, dict(need)
        self._channel = driver.place()
        self._busy = False

    def give(self, run_id: str, gpus: int = 0) -> None:
        """Have it execute a run. If the driver is dead, `news` will say so.

        Args:
            run_id: of the run.
            gpus: not used: an actor sees only the GPUs that the run has.
        """
        self._busy = True
        self._send(run=run_id, need=self._need, settings=self.settings)

    def news(self, seconds: float) -> Literal["done", "died"] | None:
        """Wait at most `seconds` for the end of the run that it was given; died only if the driver has."""
        if not select.select([self._channel], [], [], seconds)[0]:
            return None
        with suppress(ConnectionError):
            if self._channel.recv(1024):
                self._busy = False
                return "done"
        return "died"

    def is_alive(self) -> bool:
        """Whether it can take a run."""
        return self._driver.is_alive()

    def kill(self) -> int:
        """End what it executes, and give the place up; the actor stays for other places.

        Returns:
            The return code of the driver if that is dead, else that of SIGKILL.
        """
        if self._channel.fileno() >= 0:
            if self._busy:
                self._send(kill=True)
            with suppress(OSError):
                self._channel.shutdown(socket.SHUT_WR)
            if self._busy and select.select([self._channel], [], [], _KILL_SECONDS)[0]:
                with suppress(ConnectionError):
                    self._channel.recv(1024)  # killed, or done at this moment
            self._channel.close()
        return self._driver.kill() if self._driver.has_exited() else -signal.SIGKILL

    def _send(self, **order: object) -> None:
        with suppress(ConnectionError):
            self._channel.sendall(json.dumps(order).encode() + b"\n")


@dataclass(eq=False)
class RayPlace(Place):
    """A place of a cluster.

    Attributes:
        need: what its actor takes.
    """

    need: dict[str, int] = field(default_factory=dict)


class RayEngine:
    """Chooses a place of a cluster for each run.

    Args:
        address: as Ray takes it.
        runs_dir: the runs folder.
    """

    def __init__(self, address: str, runs_dir: Path) -> None:
        self._address, self._runs_dir = address, runs_dir
        self._driver: Driver | None = None

    def choose(
        self, settings: Settings, profile: Profile, places: Sequence[Place], *, others: bool
    ) -> tuple[Place, tuple[str, ...]] | None:
        """The place of the next run, one that is idle or a new one; None while it has to wait."""
        if any(place.run is not None for place in places) and not self._is_well():
            return None  # one that has lost the cluster is replaced when its runs have ended
        driver = self._connected()
        need = need_of(settings, profile)
        alike = [place for place in places if isinstance(place, RayPlace) and place.need == need]
        busy = [place for place in alike if place.run is not None]
        room = 1  # until the driver knows the cluster, and where no node fits, which it will say in the run
        if driver.nodes is not None:
            room = max(1, sum(fitting(at_most(need, driver.nodes), node) for node in driver.nodes))
        if len(busy) >= (room if settings.workers == "auto" else min(room, int(settings.workers))):
            return None
        wanted = settings.for_worker() | {name: os.environ[name] for name in _CARRIED if name in os.environ}
        wanted["WANAVATAR_DEVICE"] = "cuda" if need["GPU"] else "cpu"  # as the actor has them, whatever is here
        for place in alike:
            if place.run is None and place.settings == wanted:
                return place, ()
        return RayPlace(wanted, engine=settings.engine, need=need), ()

    def start(self, place: Place, runs_dir: Path) -> RayWorker:
        """The worker of a place that has none."""
        assert isinstance(place, RayPlace)
        return RayWorker(self._connected(), place.settings, place.need)

    def close(self) -> None:
        """End the driver, and with it all actors."""
        if self._driver is not None:
            self._driver.kill()
            self._driver = None

    def _is_well(self) -> bool:
        return self._driver is not None and self._driver.is_alive()

    def _connected(self) -> Driver:
        """The driver; a new one where the last one has lost the cluster or never reached it."""
        if self._driver is None or not self._driver.is_alive():
            self.close()
            self._driver = Driver(self._runs_dir, self._address)
        return self._driver


def need_of(settings: Settings, profile: Profile) -> dict[str, int]:
    """What a run's actor takes: for each of its processes a CPU, main memory in bytes as for a worker of one machine,
    and a GPU, unless it is to run on a CPU.

    `auto` as a number of GPUs is one: on a cluster more clips an hour come from more runs at a time.
    """
    processes = 1 if settings.gpus == "auto" else int(settings.gpus)
    on_cpu = settings.device == "cpu" or (settings.device == "auto" and profile is PROFILES["pocket"])
    memory = int(processes * profile.host_gb * 1e9)
    return {"CPU": processes, "GPU": 0 if on_cpu else processes, "memory": memory}


def at_most(need: Mapping[str, int], nodes: Sequence[Mapping[str, float]]) -> dict[str, int]:
    """The need with no more main memory than a node has that has the rest: there one run at a time is tried."""
    most = max((node["memory"] for node in nodes if fitting({**need, "memory": 0}, node)), default=0.0)
    return {**need, "memory": min(need["memory"], int(most))}


def fitting(need: Mapping[str, int], node: Mapping[str, float]) -> int:
    """How many actors fit on a node."""
    return min(int(node[name] // number) for name, number in need.items() if number)


def in_words(resources: Mapping[str, float]) -> str:
    """CPUs, GPUs and main memory as words."""
    counted = [f"{number:g} {name}{'s' * (number != 1)}" for name, number in resources.items() if name != "memory"]
    return ", ".join(each for each in [*counted, f"{resources['memory'] / 1e9:.0f} GB"] if not each.startswith("0 "))
