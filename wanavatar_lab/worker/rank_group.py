"""The processes beside a worker that share its runs, as the worker sees them and as they see it.

    worker, rank 0 ── {"run": ...} ──▶ rank 1, rank 2, ...     lines of JSON on a socket each
       │  ▲ └──────── {"go": ...}  ──▶   │  load their models, run the same stage
       │  └────────── {"loaded"}, {"ended": ...}
       └─ every process says each second that it is alive, in both directions

All are children of the worker, in its process group: whoever kills that leaves none of them. A rank that dies, stops or
fails while the others wait for it ends the run: the worker, or where that is the one that does not answer any more
another rank, finishes the run as failed and kills the process group. The supervisor then starts a fresh worker with the
next run, and that fresh ranks. Nothing here imports torch before a group is started.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import LabError, causes
from wanavatar_lab.memory.machine import gpu_numbers
from wanavatar_lab.runs.finish import finish_run
from wanavatar_lab.runs.ranks import Ranks
from wanavatar_lab.runs.run import Run
from wanavatar_lab.worker.child_process import how_it_ended

BEAT = 1.0  # seconds between signs of life
SILENCE = 25.0  # seconds without one after which a process counts as stopped; loading may keep a thread busy for some
TIMEOUT = 45.0  # seconds that processes wait for each other in a pass or between steps
PATIENCE = 5.0  # seconds for all to end a run that has ended in one of them
_NAP = 0.02


class RankLost(LabError):
    """A process that shared the run has died, stopped or failed."""


class Member:
    """One of the other processes, as rank 0 sees it.

    Attributes:
        rank: its number.
        pid: its process id.
        loaded: whether it has loaded the models of this run.
        ended: how the run ended in it: {"state": ..., "error": ..., "lost": whether it only lost the others}.
    """

    def __init__(self, rank: int, world: int, device: str, runs_dir: Path) -> None:
        self.rank, self.loaded, self._world, self._heard = rank, False, world, time.monotonic()
        self.ended: dict[str, Any] | None = None
        self._sending = threading.Lock()
        self._channel, theirs = socket.socketpair()
        environment = dict(os.environ)
        if device == "cpu":
            environment["OMP_NUM_THREADS"] = str(threads_of(world))
        words = [str(runs_dir), str(os.getpid()), str(rank), str(world), device]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-P", "-m", "wanavatar_lab.worker.rank_process", *words],
                stdin=theirs.fileno(),
                env=environment,
            )
        self.pid = self._process.pid
        threading.Thread(target=self._listen, name=f"rank {rank}", daemon=True).start()

    def say(self, **message: Any) -> None:
        """Send it a message, from any thread; one that is dead gets none."""
        with suppress(OSError), self._sending:  # a long one goes in parts, and no other one between them
            self._channel.sendall(json.dumps(message).encode() + b"\n")

    def forget(self) -> None:
        """Expect news of another run."""
        self.loaded, self.ended = False, None

    def trouble(self) -> str | None:
        """What is wrong with it, as a sentence; None if it is well, or has done its part of the run."""
        ended = self.ended  # which another thread may change
        if ended is not None and ended["state"] == "succeeded":
            return None
        name = f"Rank {self.rank} of {self._world} (process {self.pid})"
        if (code := self._process.poll()) is not None:
            return f"{name} ended: {how_it_ended(code)}."
        if ended is not None and ended["state"] == "failed" and not ended["lost"]:
            return f"{name} failed: {ended['error']}"
        if time.monotonic() - self._heard > SILENCE:
            return f"{name} has not answered for {SILENCE:.0f} s."
        return None

    def kill(self) -> None:
        """Kill it and wait for its end."""
        self._process.kill()
        self._process.wait()
        self._channel.close()

    def _listen(self) -> None:
        with suppress(OSError, ValueError):
            for line in self._channel.makefile(encoding="utf-8"):
                message = json.loads(line)
                self._heard = time.monotonic()
                self.loaded = self.loaded or "loaded" in message
                self.ended = message.get("ended", self.ended)


class RankGroup:
    """The other processes of a worker, which stay between runs as it does.

    Attributes:
        lost: whether processes are left that may wait for each other for ever, so that the worker has to be replaced.
    """

    def __init__(self) -> None:
        self.lost = False
        self._members: list[Member] = []
        self._device = ""
        self._run: Run | None = None
        self._joined = False
        self._threads: int | None = None  # of torch, when this process had no others
        self._lock = threading.Lock()

    def limit(self, world: int) -> None:
        """Let no more processes than so many hold memory on GPUs, this one among them: other runs have the others."""
        if len(self._members) + 1 > world:
            self.close()

    def begin(self, run: Run, request: dict[str, Any], seed: int, world: int, device: str) -> Ranks:
        """Let so many processes, this one among them, load the models of a run; returns at once.

        Args:
            run: that is executed.
            request: as JSON.
            seed: of the run.
            world: 1 for this process alone.
            device: of this process.
        """
        if world == 1:
            return Ranks()
        for member in self._members:
            member.forget()
        if len(self._members) + 1 != world or any(member.trouble() for member in self._members):
            self.close()
            others = ["cpu"] * world if device == "cpu" else [f"cuda:{number}" for number in gpu_numbers(device)]
            self._device = others[0]
            self._members = [Member(rank, world, others[rank], run.folder.parent) for rank in range(1, world)]
            threading.Thread(target=self._watch, args=(self._members,), name="ranks", daemon=True).start()
        for member in self._members:
            member.say(run=run.id, request=request, seed=seed)
        self._run = run
        return Ranks(0, world)

    def start(self, look: Callable[[], None]) -> None:
        """Wait until all have loaded their models, and meet them.

        Args:
            look: raises where the run is cancelled.

        Raises:
            RankLost: one has died or failed.
        """
        if self._run is None:
            return
        while not all(member.loaded for member in self._members):
            look()
            for member in self._members:
                if (trouble := member.trouble()) is not None:
                    raise RankLost(_advised(trouble))
            time.sleep(_NAP)
        import torch
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        from wanavatar_lab.wan.context_parallel import join

        world = len(self._members) + 1
        if self._device == "cpu":
            self._threads = torch.get_num_threads()
            torch.set_num_threads(min(self._threads, threads_of(world)))
        store = None
        if not self._joined:
            store = TCPStore("127.0.0.1", 0, world, is_master=True, wait_for_workers=False)
        for member in self._members:
            member.say(go=None if store is None else store.port)
        if store is not None:
            self._joined = True  # also where that fails: torch cannot meet others in this process then
            join(Ranks(0, world), store, self._device, TIMEOUT)

    def explained(self, fault: BaseException) -> BaseException:
        """The fault that ended the run here, or what another rank's is the cause of it."""
        if self._run is None or isinstance(fault, RankLost) or not lost_others(fault):
            return fault
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            for member in self._members:
                if (trouble := member.trouble()) is not None:
                    lost = RankLost(_advised(trouble))
                    lost.__cause__ = fault
                    return lost
            time.sleep(_NAP)
        lost = RankLost(_advised(f"The {len(self._members) + 1} processes of the run lost each other: {_first(fault)}"))
        lost.__cause__ = fault
        return lost

    def end(self, *, early: bool) -> None:
        """The run has ended in this process: wait for the others, and part from them where one does not end.

        Args:
            early: whether it was cancelled or failed, so that others may wait for this process.
        """
        if self._run is None:
            return
        if self._threads is not None:
            sys.modules["torch"].set_num_threads(self._threads)
        for member in self._members if early else ():
            member.say(cancel=True)  # one that still loads
        deadline = time.monotonic() + (PATIENCE if early else TIMEOUT)
        while not (ended := all(member.ended for member in self._members)) and time.monotonic() < deadline:
            if any(member.trouble() for member in self._members if not member.ended):
                break
            time.sleep(_NAP)
        with self._lock:  # from now on the watcher ends no run
            self._run = None
        if not ended or any(member.ended["lost"] for member in self._members if member.ended):
            self.lost = self._joined
            self.close()

    def close(self) -> None:
        """End the other processes."""
        for member in self._members:
            member.kill()
        self._members = []
        if self._joined and not self.lost:
            from wanavatar_lab.wan.context_parallel import leave

            leave()
        self._joined = False

    def _watch(self, members: list[Member]) -> None:
        """Tell the others that this process lives, and end the run if one of them is in trouble and it does not end."""
        since: float | None = None
        while members is self._members:
            for member in members:
                member.say(alive=True)
            time.sleep(BEAT / 2)
            trouble = next(filter(None, (member.trouble() for member in members)), None)
            since = None if trouble is None or self._run is None else since or time.monotonic()
            # this process sees it by itself, unless it waits for the one in trouble
            if since is not None and trouble is not None and time.monotonic() - since > PATIENCE:
                with self._lock:
                    if (run := self._run) is not None and members is self._members:
                        end_run(run, _advised(trouble))


def end_run(run: Run, error: str) -> None:
    """Finish a run as failed from a thread, and kill all of its processes, this one among them."""
    try:
        with suppress(OSError), open(run.folder / "log.txt", "a", encoding="utf-8") as log:
            log.write(f"{time.strftime('%H:%M:%S')} {error}\n")
        status = run.readable_status()
        if status is None or not status.ended:
            finish_run(run, "failed", error=error)
    finally:
        os.killpg(0, signal.SIGKILL)


def lost_others(fault: BaseException) -> bool:
    """Whether an error only says that another process was not there any more."""
    kinds = ("DistBackendError", "DistNetworkError", "DistStoreError")
    words = ("gloo", "Connection closed by peer", "NCCL", "process group")
    return any(
        any(kind in kinds for kind in (each.__name__ for each in type(link).__mro__))
        or any(word in str(link) for word in words)
        for link in causes(fault)
    )


def threads_of(world: int) -> int:
    """Threads of a process on a CPU that it shares with others."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // world)


def _advised(trouble: str) -> str:
    advice = "log.txt has what it printed. Run it again, with new processes, or with WANAVATAR_GPUS=1 in one."
    return f"{trouble.rstrip('.')}. {advice}"


def _first(fault: BaseException) -> str:
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0]
