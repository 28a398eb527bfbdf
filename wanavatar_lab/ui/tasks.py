"""Background work of widgets: what a button, a message or a timer starts must not block the kernel's event loop."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import ipywidgets

_log = logging.getLogger(__name__)
_running: set[asyncio.Task[Any]] = set()  # the loop itself keeps only weak references to its tasks


def loop_runs() -> bool:
    """Whether an event loop runs in this thread, as in a notebook's kernel."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def start(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any] | None:
    """Run `work` as a task of this thread's event loop; without a running loop, as in a script, run it to completion.

    Returns:
        The task, or None if `work` is done.
    """
    if not loop_runs():
        asyncio.run(work)
        return None
    task = asyncio.get_running_loop().create_task(work)
    _running.add(task)
    task.add_done_callback(_finished)
    return task


def _finished(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        # nothing may be awaiting the task, and its error would be lost
        _log.error("A widget's background task failed", exc_info=error)


def repeat(work: Callable[[], object], seconds: float, widget: ipywidgets.Widget) -> None:
    """Call `work` every `seconds` until it returns True or `widget` is closed; without a running loop, never."""

    async def timer() -> None:
        while True:
            await asyncio.sleep(seconds)
            if widget.comm is None or work() is True:
                return

    if loop_runs():
        start(timer())
