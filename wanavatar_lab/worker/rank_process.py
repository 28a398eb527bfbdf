"""A process beside the worker that computes a part of its runs: the same stage on the same request, writing nothing.

    python -m wanavatar_lab.worker.rank_process <runs folder> <process id of the worker> <rank> <world> <device>

Started by `worker.rank_group`, which has the messages on its standard input.
"""

import faulthandler
import json
import os
import queue
import socket
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from wanavatar_lab.errors import Cancelled, cancellable
from wanavatar_lab.requests import Request
from wanavatar_lab.runs.inputs import as_submitted
from wanavatar_lab.runs.ranks import Ranks
from wanavatar_lab.runs.run import Run
from wanavatar_lab.stages import stage_module
from wanavatar_lab.stages.context import StageContext
from wanavatar_lab.worker.child_process import die_with_parent
from wanavatar_lab.worker.error_messages import explain
from wanavatar_lab.worker.model_cache import ModelCache
from wanavatar_lab.worker.process import output_into
from wanavatar_lab.worker.rank_group import BEAT, SILENCE, TIMEOUT, end_run, lost_others


class RankProcess:
    """This process, from its start until it is killed.

    Args:
        runs_dir: the folder of all runs.
        ranks: which of the processes it is.
        device: where it computes.
        channel: the socket to rank 0.
    """

    def __init__(self, runs_dir: Path, ranks: Ranks, device: str, channel: socket.socket) -> None:
        self._runs_dir, self._ranks, self._device, self._channel = runs_dir, ranks, device, channel
        self._cache = ModelCache(device)
        self._orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._cancelled, self._heard = threading.Event(), time.monotonic()
        self._run: Run | None = None
        self._sending = threading.Lock()

    def serve(self) -> None:
        """Execute what rank 0 says."""
        threading.Thread(target=self._listen, name="orders", daemon=True).start()
        threading.Thread(target=self._live, name="signs of life", daemon=True).start()
        while True:
            order = self._orders.get()
            if "run" not in order:  # of a run that has ended here already
                continue
            self._run = run = Run(self._runs_dir / order["run"])
            with output_into(run.folder / "log.txt"):
                self._say(ended=self._execute(run, order))
            self._run = None

    def _execute(self, run: Run, order: dict[str, Any]) -> dict[str, Any]:
        """Take part in a run; returns how it ended here."""
        try:
            request = as_submitted(Request.from_json(order["request"]), run.folder)
            module = stage_module(request.stage)
            with cancellable(self._look):
                models = self._cache.models(request, module)
            self._say(loaded=True)
            self._meet()
            context = StageContext(run.folder, order["seed"], ranks=self._ranks)
            context.check()  # as rank 0 does
            module.run(request, models, context)
        except Cancelled:
            return {"state": "cancelled", "error": "", "lost": False}
        except BaseException as fault:  # noqa: BLE001  a stage may raise anything, and rank 0 must know
            lost = lost_others(fault)
            sys.stderr.write(f"Rank {self._ranks.rank} of {self._ranks.world}:\n{traceback.format_exc()}")
            return {"state": "failed", "error": explain(fault, run), "lost": lost}
        return {"state": "succeeded", "error": "", "lost": False}

    def _meet(self) -> None:
        """Wait for all to have loaded their models, and meet them the first time."""
        while "go" not in (order := self._orders.get()):
            pass
        if order["go"] == "cancel":
            raise Cancelled
        if order["go"] is None:  # they have met in an earlier run
            return
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        from wanavatar_lab.wan.context_parallel import join

        store = TCPStore("127.0.0.1", order["go"], self._ranks.world, is_master=False)
        join(self._ranks, store, self._device, TIMEOUT)

    def _look(self) -> None:
        if self._cancelled.is_set():
            raise Cancelled

    def _say(self, **message: Any) -> None:
        with self._sending:
            self._channel.sendall(json.dumps(message).encode() + b"\n")

    def _listen(self) -> None:
        """Take rank 0's messages; when it is gone, so is this process."""
        try:
            for line in self._channel.makefile(encoding="utf-8"):
                message = json.loads(line)
                self._heard = time.monotonic()
                if "cancel" in message:
                    self._cancelled.set()
                    self._orders.put({"go": "cancel"})
                elif "alive" not in message:
                    if "run" in message:
                        self._cancelled.clear()
                    self._orders.put(message)
        finally:
            os._exit(1)

    def _live(self) -> None:
        """Say that this process lives, and see that rank 0 does."""
        while True:
            self._say(alive=True)
            time.sleep(BEAT)
            silent = time.monotonic() - self._heard
            if self._run is not None and silent > SILENCE:
                end_run(self._run, f"Rank 0 of {self._ranks.world}, the worker, has not answered for {silent:.0f} s.")


def main(runs_dir: Path, worker: int, rank: int, world: int, device: str) -> None:
    """Take part in runs until killed, or until the process with the id `worker` is gone."""
    die_with_parent(worker)
    faulthandler.enable()
    channel = socket.socket(fileno=os.dup(0))
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    RankProcess(runs_dir, Ranks(rank, world), device, channel).serve()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5])
