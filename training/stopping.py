"""How a run is asked to end: by SIGTERM, to which it answers with a checkpoint of the last whole step."""

import signal
import threading
from types import FrameType

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]

from wanavatar_lab.errors import LabError

CODE = 128 + signal.SIGTERM  # what a shell says of a process that ended by this signal


class Stopped(LabError):
    """The run was asked to end, and what was learnt is saved."""


class StopRequest:
    """Whether this process, or another of the same run, was sent SIGTERM.

    Python runs a handler between two operations of its own, so one that waits for another process hears the signal
    when that is over. All processes therefore ask at the same places and answer alike: otherwise one would leave while
    the others wait for its gradients.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator, self._heard = accelerator, False
        self._before: signal.Handlers | object | None = None

    def __enter__(self) -> "StopRequest":
        # only the main thread may say who handles a signal; in any other one SIGTERM means what it meant
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._hear)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)  # type: ignore[arg-type]

    def heard(self) -> bool:
        """Whether to end now; every process of the run has to ask."""
        if self._accelerator.num_processes == 1:
            return self._heard
        flag = torch.tensor([float(self._heard)], device=self._accelerator.device)
        return bool(self._accelerator.reduce(flag, "sum").item() > 0)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._heard = True
