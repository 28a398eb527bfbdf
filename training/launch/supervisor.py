"""The process that starts those that train, waits for their end, and writes down how it was.

`training.launch.launch` starts it apart from itself, so that a run goes on when whoever started it has gone.

How a run is asked to end: by SIGTERM, to which it answers with a checkpoint of the last whole step.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import psutil  # type: ignore[import-untyped]
import torch
from accelerate import Accelerator  # type: ignore[import-untyped]

from training.launch.processes import CONFIGS, ENDED, LOG, PATIENCE, TOLD, Launcher, processes_of, send, usable_cores
from wanavatar_lab.errors import LabError
from wanavatar_lab.files import write_json

CODE = 128 + signal.SIGTERM  # what a shell says of a process that ended by this signal


class Stopped(LabError):
    """The run was asked to end, and what was learnt is saved."""


class StopRequest:
    """Whether this process, or another of the same run, was sent SIGTERM.

    Python runs a handler between two operations of its own, so one that waits for another process hears the signal
    when that is over. All processes therefore ask at the same places and answer alike: otherwise one would leave while
    the others wait for its gradients.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator, self._heard = accelerator, False
        self._before: signal.Handlers | object | None = None

    def __enter__(self) -> "StopRequest":
        # only the main thread may say who handles a signal; in any other one SIGTERM means what it meant
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)  # type: ignore[arg-type]

    def heard(self) -> bool:
        """Whether to end now; every process of the run has to ask."""
        if self._accelerator.num_processes == 1:
            return self._heard
        flag = torch.tensor([float(self._heard)], device=self._accelerator.device)
        return bool(self._accelerator.reduce(flag, "sum").item() > 0)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard = True


LEFT_ALONE = 40.0  # seconds that processes have to end when one of them has died


def command_of(run: Path, launcher: Launcher, processes: int, module: str) -> list[str]:
    """The command that trains, as one could type it."""
    if launcher == "plain":
        return [sys.executable, "-m", module, "--config", str(run / TOLD)]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS[launcher])]
    # a port that is free: there may be another run on this machine
    told = ["--num_processes", str(processes), "--main_process_port", "0"]
    return [*launch, *told, "-m", module, "--config", str(run / TOLD)]


def environment_of(launcher: Launcher, processes: int) -> dict[str, str]:
    """What is in the environment of the command that trains."""
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment["ACCELERATE_USE_CPU"] = "1"
    if launcher != "plain":
        # launchers give each process one thread, which is slow for an optimizer in main memory
        environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    return environment


def keep(run: Path, launcher: Launcher, processes: int, module: str) -> int:
    """Run the command to its end, and write down how it was; returns its code."""
    asked = False

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked = True  # the others of this group have heard it too

    signal.signal(signal.SIGTERM, hear)
    command, environment = command_of(run, launcher, processes, module), environment_of(launcher, processes)
    with open(run / LOG, "wb") as log:
        child = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        code = child.wait()
    # the launcher may go before the processes that it launched
    deadline = time.monotonic() + (PATIENCE if asked else LEFT_ALONE)
    while (left := _others(run)) and time.monotonic() < deadline:
        time.sleep(0.1)
    send(left, signal.SIGKILL)
    how = "stopped" if asked or code == CODE else "finished" if code == 0 else "failed"
    said = (run / LOG).read_text(errors="replace")
    write_json(run / ENDED, {"state": how, "why": why_failed(said, code) if how == "failed" else ""})
    return code


def why_failed(said: str, code: int) -> str:
    """Which process ended a run, and how, from what its launcher printed; else the last line of all."""
    rank = re.search(r"Root Cause.*?rank\s*:\s*(\d+).*?exitcode\s*:\s*(-?\d+)\s*\(pid:\s*(\d+)\)", said, re.DOTALL)
    if rank:
        number, code, pid = (int(group) for group in rank.groups())
        return f"Rank {number} (process {pid}) {_how(code)}, and the run ended with it. See {LOG}."
    lines = [line for line in said.splitlines() if line.strip()]
    return f"The training {_how(code)}: {lines[-1].strip() if lines else 'it said nothing'}"


def _how(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed with code {code}"


def _others(run: Path) -> list[psutil.Process]:
    return [process for process in processes_of(run) if process.pid != os.getpid()]


def main() -> None:
    """The command line; `training.launch.launch` says what it is told."""
    parser = argparse.ArgumentParser(prog="python -m training.launch.supervisor", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("launcher", choices=("plain", *CONFIGS))
    parser.add_argument("processes", type=int)
    parser.add_argument("module")
    given = parser.parse_args()
    raise SystemExit(keep(given.run, given.launcher, given.processes, given.module))


if __name__ == "__main__":
    main()
