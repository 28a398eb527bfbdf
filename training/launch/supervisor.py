"""The supervisor of a launched run: starts the training, waits for its processes, and records how they ended.

`training.launch.launch` starts it. It is apart from `wanavatar_lab.worker.supervisor`, which gives one run after
another to a worker that stays: this one has a single command to run, whose processes are in many groups.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from training.launch.processes import (
    CONFIGS,
    ENDED,
    LOG,
    PATIENCE,
    PREVIOUS_LOG,
    STOP_CODE,
    TOLD,
    failures_since,
    note_failure,
    processes_of,
    send,
    usable_cores,
)
from wanavatar_lab.files import write_json
from wanavatar_lab.worker.child_process import how_it_ended

# seconds for the other processes to end after one has died: torchrun kills them after 30
LEFT_ALONE = 40.0


def supervise(run: Path, launcher: str, processes: int, module: str) -> int:
    """Run the training to its end and record how it ended; returns the exit code of its command."""
    stopping = False

    def receive(*_: object) -> None:
        nonlocal stopping
        stopping = True  # `launch.stop` sends SIGTERM to the training processes too

    signal.signal(signal.SIGTERM, receive)
    command = [sys.executable, "-m"]
    if launcher != "plain":
        # port 0 is any free one: there may be another run on this machine
        command += ["accelerate.commands.launch", "--config_file", str(CONFIGS[launcher])]
        command += ["--num_processes", str(processes), "--main_process_port", "0", "-m"]
    command += [module, "--config", str(run / TOLD)]
    began = time.time()
    if (run / LOG).is_file():  # of the start before: why a run failed is looked for after it was started again
        os.replace(run / LOG, run / PREVIOUS_LOG)
    with open(run / LOG, "wb") as log:
        environment = environment_of(launcher, processes)
        code = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment).wait()
    # the launcher may exit before the processes that it started
    deadline = time.monotonic() + (PATIENCE if stopping else LEFT_ALONE)
    while (left := [each for each in processes_of(run) if each.pid != os.getpid()]) and time.monotonic() < deadline:
        time.sleep(0.1)
    send(left, signal.SIGKILL)
    how = "stopped" if stopping or code == STOP_CODE else "finished" if code == 0 else "failed"
    why = ""
    if how == "failed":
        reasons = failures_since(run, began)
        why = why_failed((run / LOG).read_text(errors="replace"), code, reasons)
        if why not in reasons.values():  # that a process was killed it could not note itself
            note_failure(run, why, rank=None)
    write_json(run / ENDED, {"state": how, "why": why})
    return code


def environment_of(launcher: str, processes: int) -> dict[str, str]:
    """The environment of the command that trains."""
    environment = dict(os.environ)
    if not torch.cuda.is_available():
        environment["ACCELERATE_USE_CPU"] = "1"
    if launcher != "plain":
        # launchers give each process one thread, which is slow for an optimizer in CPU RAM
        environment.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // processes)))
    return environment


def why_failed(output: str, code: int, reasons: Mapping[int, str] | None = None) -> str:
    """Why a run failed.

    Args:
        output: of its launcher. torchrun's report in it says which process ended the run and how.
        code: exit code of the launcher.
        reasons: what processes noted themselves, by rank; one that was killed could not.
    """
    reasons = reasons or {}
    rank = re.search(r"Root Cause.*?rank\s*:\s*(\d+).*?exitcode\s*:\s*(-?\d+)\s*\(pid:\s*(\d+)\)", output, re.DOTALL)
    if rank:
        how, why = how_it_ended(int(rank[2])), reasons.get(int(rank[1]), f"See {LOG}.")
        return f"Rank {rank[1]} (process {rank[3]}) ended the run: {how}. {why}"
    if reasons:
        return next(iter(reasons.values()))
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return f"The training ended with {how_it_ended(code)}. Its last line: {lines[-1] if lines else '(none)'}"


if __name__ == "__main__":
    _, run, launcher, processes, module = sys.argv  # from `training.launch.launch` only, which has checked them
    raise SystemExit(supervise(Path(run), launcher, int(processes), module))
