"""GPU, CPU and memory use of a run: the GPUs by nvidia-smi, CPU and memory by the run's own processes."""

import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from training.launch.processes import processes_of
from wanavatar_lab.ui.language import language, read_words

QUERY = "index,name,utilization.gpu,memory.used,memory.total"
TIMEOUT = 5.0  # seconds for nvidia-smi, which normally answers within one; a stuck driver never does

WORDS = read_words(__file__, "machine_use")


class Use:
    """Samples the use of one run.

    Args:
        run: its folder.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._before: tuple[float, float] | None = None

    def look(self) -> list[str]:
        """A line per GPU of the machine, and one for the run's processes; nothing if the run has no processes.

        CPU use is a difference, so it is missing from the first look.
        """
        processes, busy, held = processes_of(self._run), 0.0, 0
        for process in processes:
            with suppress(psutil.Error):  # it exited in the meantime
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
        return [*gpu_lines(), " · ".join(said)]


def gpu_lines() -> list[str]:
    """Use of each GPU; nothing where there is no NVIDIA GPU, or nvidia-smi fails."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    line = [program, f"--query-gpu={QUERY}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return [language.of(WORDS["silent"])]
    return read_gpus(done.stdout) if done.returncode == 0 else []


def read_gpus(answer: str) -> list[str]:
    """A line for each GPU in nvidia-smi's answer to `QUERY`."""

    def gigabytes(mebibytes: str) -> str:
        try:
            return f"{float(mebibytes) * 1.048576 / 1000:.1f}"
        except ValueError:  # [N/A]
            return mebibytes

    rows = [[word.strip() for word in line.split(",")] for line in answer.splitlines() if line.count(",") == 4]
    return [
        language.of(WORDS["gpu"]).format(
            index=index, name=name, busy=busy, used=gigabytes(used), total=gigabytes(total)
        )
        for index, name, busy, used, total in rows
    ]
