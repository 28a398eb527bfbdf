"""Programs that a cell waits for: what they print is shown as it comes, and they end with who waits for them."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from wanavatar_lab.errors import LabError

ROOT = Path(__file__).resolve().parents[2]
GRACE = 5.0  # seconds between SIGTERM and SIGKILL
Say = Callable[[str], None]


async def run_module(module: str, words: Sequence[str | Path], say: Say = print) -> None:
    """Run `python -m module words` without blocking the event loop.

    Whoever stops waiting (the stop button of a notebook, a cancelled task) also ends it, with all that it started.

    Args:
        say: hears every line of its standard output.

    Raises:
        LabError: it failed; the text is what it said last.
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
        _, complaints = await asyncio.gather(_tell(process.stdout, say), _collect(process.stderr))
        code = await process.wait()
    except BaseException:
        await _end(process)
        raise
    if code:
        raise LabError(complaints or f"python -m {module} ended with code {code} and said nothing of why.")


async def _tell(stream: asyncio.StreamReader, say: Say) -> None:
    async for line in stream:
        say(line.decode(errors="replace").rstrip())


async def _collect(stream: asyncio.StreamReader) -> str:
    """The last line that says something; of a progress bar only its last state counts as one."""
    text = (await stream.read()).decode(errors="replace")
    lines = [line.rpartition("\r")[2].strip() for line in text.splitlines()]
    return next((line for line in reversed(lines) if line), "")


async def _end(process: asyncio.subprocess.Process) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):  # it has ended
            os.killpg(process.pid, number)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), GRACE)
            return
