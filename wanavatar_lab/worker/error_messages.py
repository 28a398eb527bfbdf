"""The error messages of failed runs: what was wrong and what to do."""

import errno
from pathlib import Path

from wanavatar_lab.errors import (
    DiskFull,
    LabError,
    MediaError,
    WeightsError,
    causes,
    is_out_of_gpu_memory,
    is_out_of_main_memory,
)
from wanavatar_lab.files import OUT_OF_ROOM, disk_full
from wanavatar_lab.requests import STAGE_REQUESTS
from wanavatar_lab.runs.inputs import name_originals
from wanavatar_lab.runs.run import Run

LONGEST = 4000  # characters; the last status has to fit into its reserved space, 16 KiB, and holds the text twice

# what takes less memory, by the fields of a request
_SMALLER = {
    "width": "a smaller picture",
    "resolution": "a smaller resolution",
    "frames_per_segment": "fewer frames per segment",
    "segment_frames": "fewer frames per segment",
    "tile": "a smaller tile",
    "text": "a shorter text",
    "media": "a shorter recording",
    "video": "a shorter recording",
}
_NO_THREAD = (
    "The system did not allow another thread. Raise the limits on processes and memory (ulimit -u, ulimit -v), or end "
    "other programs; then run it again."
)
_NO_FILE = (
    "The system did not allow another open file. Raise the limit on open files (ulimit -n), or end other programs; "
    "then run it again."
)


def explain(error: BaseException, run: Run) -> str:
    """One message for the user: what was wrong and what to do; at most `LONGEST` characters."""
    text = name_originals(_message(error, run), run.folder)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def worker_died(how: str, log: str = "log.txt") -> str:
    """The error of a run whose worker is gone.

    Args:
        how: what is known of its end.
        log: where its last output is.
    """
    return f"worker died ({how}). See {log} and resubmit; a new worker will be started."


def supervisor_died(starts: int, log: Path, last_line: str) -> str:
    """The error of a queued run for which no supervisor can be started.

    Args:
        starts: how many supervisors were started in a row.
        log: the file that they print to.
        last_line: its last line, which may be empty.
    """
    printed = f"ends with: {last_line.rstrip('.')}." if last_line else "is empty."
    return (
        f"No supervisor could be started for the queue: {starts} in a row ended before they took a run. {log} "
        f"{printed} Correct that and resubmit."
    )


def _out_of_memory(run: Run, *, gpu: bool) -> str:
    fields = STAGE_REQUESTS[run.stage].model_fields if run.stage in STAGE_REQUESTS else {}
    choices = list(dict.fromkeys(text for field, text in _SMALLER.items() if field in fields))
    advice = [f"choose {' or '.join(choices[:2])}"] if choices else []
    if gpu:
        advice += ["set offload to model, group or fp8"] if "offload" in fields else []
        ending = "end other programs that use the GPU"
    else:
        ending = "end other programs"
    said = ", ".join([*advice, f"or {ending}" if advice else ending])
    where = "GPU" if gpu else "machine"
    return f"The {where} ran out of memory. {said[0].upper()}{said[1:]}; then run it again."


def _message(error: BaseException, run: Run) -> str:
    for link in causes(error):
        if isinstance(link, DiskFull):
            return str(link)
        # PyAV and others have their own classes for it, with the system's number
        if getattr(link, "errno", None) in OUT_OF_ROOM:
            return str(disk_full(run.folder / "the result"))
    exhausted = None
    if any("can't start new thread" in str(link) for link in causes(error)):
        exhausted = _NO_THREAD
    elif any(getattr(link, "errno", None) in (errno.EMFILE, errno.ENFILE) for link in causes(error)):
        exhausted = _NO_FILE
    elif is_out_of_gpu_memory(error):
        exhausted = _out_of_memory(run, gpu=True)
    elif is_out_of_main_memory(error):
        exhausted = _out_of_memory(run, gpu=False)
    # a file is not damaged if reading it failed for lack of memory, threads or handles; other errors name their remedy
    if isinstance(error, LabError) and (exhausted is None or not isinstance(error, WeightsError | MediaError)):
        return str(error)
    if exhausted is not None:
        return exhausted
    first = (str(error).strip().splitlines() or ["no message"])[0]
    return f"{type(error).__name__}: {first} (this is a fault of the program; log.txt has the traceback)"
