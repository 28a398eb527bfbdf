"""What a user of a CPU waits for: `import wanavatar_lab`, and the demo. The least of several runs counts."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wanavatar_lab.bench.watch import say
from wanavatar_lab.errors import LabError

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "05_pipeline.ipynb"


def measure_cpu(*, demo: bool, imports: int = 7, demos: int = 2) -> dict[str, Any]:
    """Run each in a process of its own.

    Args:
        demo: whether to run the notebook of `make demo` too, which takes most of the time.
        imports, demos: how often each.

    Returns:
        The machine, and `rows`; in seconds.

    Raises:
        LabError: one of them fails, or the notebook is not there.
    """
    figures: dict[str, Any] = {
        "bench": "cpu",
        "device": "cpu",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": [],
    }
    rows: list[dict[str, Any]] = figures["rows"]
    rows.append(_timed("import wanavatar_lab", imports, _import_seconds))
    if demo:
        if not NOTEBOOK.is_file():
            raise LabError(f"{NOTEBOOK} is not there: the demo needs the repository, of which it is a part.")
        rows.append(_timed("make demo", demos, _demo_seconds))
    return figures


def _timed(figure: str, runs: int, run: Callable[[], float]) -> dict[str, Any]:
    say(f"{figure}, {runs} times …")
    load = os.getloadavg()[0]
    times = [run() for _ in range(runs)]
    return {"figure": figure, "load": max(load, os.getloadavg()[0]), "times": times, "seconds": min(times)}


def _import_seconds() -> float:
    """Seconds of the import alone, without the interpreter's start."""
    program = "import time; t = time.perf_counter(); import wanavatar_lab; print(time.perf_counter() - t)"
    return float(_output([sys.executable, "-c", program], dict(os.environ)))


def _demo_seconds() -> float:
    """Seconds of `make demo` behind its set-up, with a folder of runs of its own."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "wanavatar_lab.cli.run_notebook", str(NOTEBOOK), f"{folder}/demo.ipynb"]
        words += ["-p", "profile", "pocket", "-p", "interactive", "False"]
        start = time.perf_counter()
        _output([sys.executable, *words], os.environ | {"WANAVATAR_RUNS_DIR": folder, "CUDA_VISIBLE_DEVICES": ""})
        return time.perf_counter() - start


def _output(command: list[str], environment: dict[str, str]) -> str:
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise LabError(f"{' '.join(command)} failed: {ended.stderr.strip()[-1000:]}")
    return ended.stdout
