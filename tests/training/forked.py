"""Toy runs in processes of their own that start at once, since a server that has imported training forks them.

Importing torch and the rest takes ten seconds, a toy run one. A forked process has computed nothing yet, so its results
are bit by bit those of a process that was started.
"""

import multiprocessing
import os
import resource
import signal
import time
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch
import torch.distributed as dist

from tests.s2v.toy import toy_model
from training import train as module
from wanavatar_lab.s2v import WanS2VTransformer3DModel

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([__name__])


class Run:
    """A run of the toy network that was started.

    Args:
        config_file: its settings.
        rank, processes: of this process, if several share the run.
        loading: seconds that its network takes to load.
        timeout: seconds that the processes wait for each other.
        file_bytes: how long its files may get, as on a disk that fills up.
    """

    def __init__(
        self,
        config_file: Path,
        rank: int = 0,
        processes: int = 1,
        loading: float = 0.0,
        timeout: float = 300.0,
        file_bytes: int | None = None,
    ) -> None:
        self._log = config_file.with_name(f"{config_file.stem}-{rank}.log")
        arguments = (config_file, self._log, rank, processes, loading, timeout, file_bytes)
        self.process: ForkServerProcess = SERVER.Process(target=_train, args=arguments, daemon=True)
        self.process.start()

    @property
    def output(self) -> str:
        return self._log.read_text() if self._log.is_file() else ""

    def finish(self, exit_code: int = 0) -> str:
        """Wait for its end, which has this exit code; gives what it printed."""
        self.process.join(240)
        assert self.process.exitcode == exit_code, self.output[-3000:]
        return self.output


def _train(
    config_file: Path, log: Path, rank: int, processes: int, loading: float, timeout: float, file_bytes: int | None
) -> None:
    printed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(printed, stream)
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "1"}
    torch.set_num_threads(1)
    if file_bytes is not None:
        # the system's signal would end the process; a full disk sends none
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, resource.RLIM_INFINITY))
    if processes > 1:
        # as torchrun does, but without a port
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        os.environ |= {name: str(number) for name, number in numbers.items()}
        store = f"file://{config_file.with_suffix('.store')}"
        dist.init_process_group(
            "gloo", init_method=store, rank=rank, world_size=processes, timeout=timedelta(seconds=timeout)
        )

    def network_of(profile: str) -> WanS2VTransformer3DModel:
        time.sleep(loading)
        return toy_model()

    module.network_of = network_of
    module.main(["--config", str(config_file)])
