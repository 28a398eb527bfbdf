"""Run a program from a notebook's cell: its output appears as it is printed, and cancelling the cell ends it.

    await run_module("training.prepare", ["--videos", folder, "--out", data])

Whatever computes with torch runs this way, so that a kernel loads no network.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from wanavatar_lab.errors import LabError

ROOT = Path(__file__).resolve().parents[2]
GRACE = 5.0  # seconds between SIGTERM and SIGKILL, enough to close the files that are being written
Say = Callable[[str], None]


async def run_module(module: str, words: Sequence[str | Path], say: Say = print) -> None:
    """Run `python -m module words` without blocking the event loop.

    Cancelling the wait (the stop button of a notebook, a cancelled task) ends the process and all its children.

    Args:
        say: called with every line of its standard output.

    Raises:
        LabError: it failed; the text is the last line of its standard error.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *map(str, words),
        cwd=ROOT,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        _, errors = await asyncio.gather(_forward(process.stdout, say), process.stderr.read())
        code = await process.wait()
    except BaseException:
        await _end(process)
        raise
    if code:
        # a progress bar overwrites its line after a carriage return; only its last state counts
        lines = [line.rpartition("\r")[2].strip() for line in errors.decode(errors="replace").splitlines()]
        why = next((line for line in reversed(lines) if line), "")
        raise LabError(why or f"python -m {module} failed with exit code {code} and printed no error.")


async def _forward(stream: asyncio.StreamReader, say: Say) -> None:
    async for line in stream:
        say(line.decode(errors="replace").rstrip())


async def _end(process: asyncio.subprocess.Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):  # it has exited
            os.killpg(process.pid, number)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), GRACE)
            return
