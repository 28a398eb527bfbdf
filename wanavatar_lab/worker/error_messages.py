"""What to tell the user when a stage fails, and whether its process can go on."""

import signal
from collections.abc import Iterator
from pathlib import Path

from wanavatar_lab.errors import DiskFull, LabError
from wanavatar_lab.files import OUT_OF_ROOM, disk_full
from wanavatar_lab.runs.run import Run

LONGEST = 4000  # characters; the last status has to fit into the blocks set aside for it

_GPU_FULL = (
    "The GPU ran out of memory. Choose a smaller resolution or fewer frames per segment, set offload to model, "
    "group or fp8, or end other programs that use the GPU; then run it again."
)
_MEMORY_FULL = (
    "The machine ran out of memory. Choose a smaller resolution or fewer frames per segment, use shorter input, or end "
    "other programs; then run it again."
)


def explain(error: BaseException, run: Run) -> str:
    """One message for the user: what was wrong and what to do."""
    text = _words(error, run)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the GPU or in the machine; the models are better dropped then."""
    return any(_gpu_full(link) or _memory_full(link) for link in _chain(error))


def is_out_of_main_memory(error: BaseException) -> bool:
    """Whether it was not the GPU's memory that ran out, but the machine's."""
    return any(_memory_full(link) for link in _chain(error))


def ruins_the_process(error: BaseException) -> bool:
    """Whether every later call to the GPU would fail too, as after an illegal access: only a new process helps."""
    return not is_out_of_memory(error) and any(
        _is_called(link, "AcceleratorError") or "CUDA error" in str(link) for link in _chain(error)
    )


def worker_died(how: str, log: str = "log.txt") -> str:
    """The error of a run whose worker is gone; `how` is what is known of it, `log` where its last words may be."""
    return f"worker died ({how}). See the end of {log}; run it again, and a fresh worker takes it."


def supervisor_died(starts: int, log: Path, last_line: str) -> str:
    """The error of a queued run that no supervisor lives to take.

    Args:
        starts: how many supervisors were started in a row.
        log: the file that they print to.
        last_line: its last line, which may be empty.
    """
    said = f"ends with: {last_line.rstrip('.')}." if last_line else "is empty."
    return (
        f"No supervisor could be started for the queue: {starts} in a row ended before they took a run. {log} {said} "
        "Mend that and run it again."
    )


def how_it_ended(code: int) -> str:
    """A process's return code in words."""
    if code >= 0:
        return f"exit code {code}"
    name = {known.value: known.name for known in signal.Signals}.get(-code, "unknown")
    hint = ": killed from outside, often because memory ran out" if -code == signal.SIGKILL else ""
    return f"signal {-code}, {name}{hint}"


def _words(error: BaseException, run: Run) -> str:
    links = list(_chain(error))
    for link in links:
        if isinstance(link, DiskFull):
            return str(link)
        # PyAV and others have their own classes for it, with the system's number
        if getattr(link, "errno", None) in OUT_OF_ROOM:
            return str(disk_full(run.folder / "the result"))
    if isinstance(error, LabError):
        return str(error)
    if any(_gpu_full(link) for link in links):
        return _GPU_FULL
    if any(_memory_full(link) for link in links):
        return _MEMORY_FULL
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return f"{type(error).__name__}: {first} (this is a fault of the program; log.txt has the traceback)"


def _gpu_full(error: BaseException) -> bool:
    # by name: this is also read where torch is not imported
    return _is_called(error, "OutOfMemoryError") or any(
        words in str(error) for words in ("CUDA out of memory", "CUDA error: out of memory")
    )


def _memory_full(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "can't allocate memory" in str(error)


def _is_called(error: BaseException, name: str) -> bool:
    return any(kind.__name__ == name for kind in type(error).__mro__)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
