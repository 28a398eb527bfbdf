"""Run a command of this package from a widget, in a process of its own: a kernel loads neither torch nor MediaPipe."""

import asyncio
import json
import sys
from typing import Any

from wanavatar_lab.errors import LabError, RequestError


async def run_command(*words: str, stdin: str = "") -> Any:
    """What `wanavatar-lab WORDS… --json` prints.

    Cancelling the wait (the stop button of a notebook, a cancelled task) ends the process.

    Args:
        words: the command and its arguments, without --json.
        stdin: what it reads from standard input.

    Raises:
        RequestError: an argument is not allowed.
        LabError: it failed; the text says why.
    """
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wanavatar_lab", *words, "--json"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, errors = await child.communicate(stdin.encode("utf-8", "backslashreplace"))
    except asyncio.CancelledError:
        child.kill()
        await child.wait()
        raise
    try:
        found = json.loads(out)
    except ValueError:  # it crashed before it could say why
        found = {"error": (errors.decode(errors="replace").strip().splitlines() or ["it gave no reason"])[-1]}
    if child.returncode and "problems" in found:
        raise RequestError([(each["field"], each["message"]) for each in found["problems"]])
    if child.returncode:
        raise LabError(str(found["error"]))
    return found
