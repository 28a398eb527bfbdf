"""Work that a button or a message starts: it must not hold up the kernel, which answers nobody meanwhile."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

_log = logging.getLogger(__name__)
_running: set[asyncio.Task[Any]] = set()  # the loop itself holds its tasks only weakly


def start(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any] | None:
    """Let `work` go on in the event loop of this thread; where none runs, as in a script, do it to its end.

    Returns:
        The task, or None if it is done.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return None
    task = loop.create_task(work)
    _running.add(task)
    task.add_done_callback(_over)
    return task


def _over(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        # nobody may be waiting for it, and then nobody would hear of it
        _log.error("What a widget had started ended with an error", exc_info=error)


def loop_runs() -> bool:
    """Whether an event loop runs in this thread, as in a notebook's kernel."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
