"""What a run takes of the machine: of its GPUs as their driver says, and its own processes' share of CPU and memory."""

import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from training.launch.processes import processes_of
from wanavatar_lab.ui.language import language, read_words

QUERY = "index,name,utilization.gpu,memory.used,memory.total"
PATIENCE = 5.0  # seconds; a driver that is stuck is not waited for

WORDS = read_words(__file__, "machine_use")


class Use:
    """Looks again and again at one run.

    Args:
        run: its folder.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._before: tuple[float, float] | None = None

    def look(self) -> list[str]:
        """A line for each GPU of the machine, and one for the run's processes; none where it has no processes.

        The first look cannot tell the share of the CPU.
        """
        lines = gpu_lines()
        processes, busy, held = processes_of(self._run), 0.0, 0
        for process in processes:
            with suppress(psutil.Error):  # it ended meanwhile
                times = process.cpu_times()
                busy += times.user + times.system
                held += process.memory_info().rss
        if not processes:
            self._before = None
            return []
        now, before = time.monotonic(), self._before
        self._before = (now, busy)
        said = [
            language.of(WORDS["memory"]).format(held=f"{held / 1e9:.1f}"),
            language.of(WORDS["processes"]).format(count=len(processes)),
        ]
        if before is not None and busy >= before[1] and now > before[0]:
            share = f"{(busy - before[1]) / (now - before[0]):.1f}"
            said.insert(0, language.of(WORDS["cores"]).format(share=share, cores=psutil.cpu_count()))
        return [*lines, " · ".join(said)]


def gpu_lines() -> list[str]:
    """What each GPU is busy with; none where there is no GPU of NVIDIA's, or its driver says nothing."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    line = [program, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=PATIENCE, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return [language.of(WORDS["silent"])]
    return read_gpus(done.stdout) if done.returncode == 0 else []


def read_gpus(said: str) -> list[str]:
    """A sentence for each line of nvidia-smi's answer to `QUERY`."""
    rows = [[word.strip() for word in line.split(",")] for line in said.splitlines() if line.count(",") == 4]
    return [
        language.of(WORDS["gpu"]).format(
            index=index, name=name, busy=busy, used=_gigabytes(used), total=_gigabytes(total)
        )
        for index, name, busy, used, total in rows
    ]


def _gigabytes(mebibytes: str) -> str:
    """MiB as GB; what is no number, such as [N/A], stays."""
    try:
        return f"{float(mebibytes) * 1.048576 / 1000:.1f}"
    except ValueError:
        return mebibytes
