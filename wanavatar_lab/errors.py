"""Errors whose text is shown to the user as it is, cancellation, exit codes, and which exceptions mean what.

The text of a LabError is a whole sentence or two: what was wrong, with the value, and what to do. Notebooks, widgets
and the command line print `str(error)` and nothing else. Nothing here imports torch.
"""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

__all__ = [
    "Cancelled",
    "DiskFull",
    "LabError",
    "MediaError",
    "NotFinite",
    "RequestError",
    "RunError",
    "RunsAway",
    "WeightsError",
]

# exit codes of every command; 128 + n is what shells report for a process that signal n has ended
SUCCEEDED, FAILED, REFUSED, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


class LabError(Exception):
    """An error whose text is meant for the user as it stands."""


class RequestError(LabError):
    """A request that is refused before anything loads.

    Args:
        problems: `(field, message)` for every invalid field; the message names the value and what is allowed.
    """

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{field}: {message}" if field else message for field, message in problems))


class MediaError(LabError):
    """A picture, video or audio file that cannot be read or written."""


class WeightsError(LabError):
    """Weights that are missing, or whose tensors are not what the model needs."""


class NotFinite(LabError):
    """NaN or infinite values in what a stage computes.

    Args:
        where: what has them, as the beginning of a sentence: "Text to image: the latents after step 1 of 4".
    """

    def __init__(self, where: str) -> None:
        super().__init__(
            f"{where} have NaN or infinite values, so that the result would be black. The usual causes are a LoRA "
            "weight that is too large and an overflow in half precision: use lower weights or leave the LoRAs out, "
            "set offload to none if it is fp8, or set WANAVATAR_DEVICE=cpu to compute in float32."
        )


class RunError(LabError):
    """A run that is unknown, or whose folder is damaged."""


class RunsAway(RunError):
    """The folder of all runs is not there now, as where its disk is not connected: nothing is known of its runs."""


class DiskFull(LabError):
    """No room left for a file that a run has to write.

    Args:
        text: the message.
        path: the file, if the message is that of `wanavatar_lab.files.disk_full`.
    """

    def __init__(self, text: str, path: Path | None = None) -> None:
        super().__init__(text)
        self.path = path


class Cancelled(Exception):
    """Raised inside a stage when the user has cancelled the run; not an error."""


_look: ContextVar[Callable[[], None]] = ContextVar("_look", default=lambda: None)


@contextmanager
def cancellable(look: Callable[[], None]) -> Iterator[None]:
    """Let `check_cancelled` call `look`, which raises `Cancelled` if the run was cancelled."""
    token = _look.set(look)
    try:
        yield
    finally:
        _look.reset(token)


def check_cancelled() -> None:
    """Stop if the run that is executed was cancelled. For long work below the stages, between its parts.

    Raises:
        Cancelled: it was cancelled; never outside of a run.
    """
    _look.get()()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the GPU or in the machine: `error` itself or one that it was raised from."""
    return is_out_of_gpu_memory(error) or is_out_of_main_memory(error)


def is_out_of_gpu_memory(error: BaseException) -> bool:
    """Whether the GPU's memory ran out."""
    return _has_cause(error, "OutOfMemoryError", "CUDA out of memory", "CUDA error: out of memory")


def is_out_of_main_memory(error: BaseException) -> bool:
    """Whether the machine's memory ran out."""
    return any(
        isinstance(link, MemoryError)
        or getattr(link, "errno", None) == errno.ENOMEM
        # torch's words, and the dynamic linker's for a library that has no room
        or any(words in str(link) for words in ("can't allocate memory", "failed to map segment from shared object"))
        for link in causes(error)
    )


def has_broken_gpu(error: BaseException) -> bool:
    """Whether every later call of this process to the GPU would fail too, as after an illegal memory access."""
    return not is_out_of_memory(error) and _has_cause(error, "AcceleratorError", "CUDA error")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """`error`, the exception that it was raised from or while handling, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _has_cause(error: BaseException, name: str, *texts: str) -> bool:
    """Whether `error` or one that it was raised from is of the class of that name, or contains one of `texts`."""
    # torch's classes are known by name, since torch may not be imported
    return any(
        name in (kind.__name__ for kind in type(link).__mro__) or any(text in str(link) for text in texts)
        for link in causes(error)
    )


def __dir__() -> list[str]:
    return __all__
