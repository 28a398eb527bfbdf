"""Child processes: they die with their parent, are killed with all that they started, and how they ended in words.

For the supervisors of this package and of training. Nothing here imports torch.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

_GUARD_NAP = 1.0  # seconds
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # from Linux's prctl.h


def start_detached(module: str, *words: str, lock: int, log: IO[bytes], folder: Path | None = None) -> None:
    """Start a module of this package as a process that outlives this one, with this environment.

    Args:
        words: its arguments.
        lock: a handle that it inherits; the caller closes its own.
        log: what it prints goes there.
        folder: that it works in; None for that of this process.
    """
    # -P: the client's folder may hold a file that is named like a module of ours
    package = str(Path(__file__).resolve().parents[2])
    theirs = [os.path.abspath(each) for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    paths = {"PYTHONPATH": os.pathsep.join([package, *theirs])}
    if settings := os.environ.get("WANAVATAR_SETTINGS"):
        paths["WANAVATAR_SETTINGS"] = os.path.abspath(settings)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", module, *words],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=(lock,),
        cwd=folder,
        env={**os.environ, **paths},
        start_new_session=True,
    )
    # waited for, since one that exits before this process would stay in the process table
    threading.Thread(target=process.wait, name=module, daemon=True).start()


def die_with_parent(parent: int) -> None:
    """Let the system kill this process when its parent dies, where it can (Linux).

    Args:
        parent: its process id; if it is gone already, this process exits now.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(f"The parent, process {parent}, is gone.")


def guard_group() -> None:
    """Fork a process that kills this process's group when this process dies, however it dies.

    What it has started is then not left behind, even when its supervisor is killed at the same moment. To be called
    before there are threads; the process that calls it leads its group.
    """
    guarded = os.getpid()
    if os.fork():
        return
    os.closerange(0, os.sysconf("SC_OPEN_MAX"))  # whoever waits for the end of a pipe or a lock waits for none of ours

    def end(*_: object) -> None:
        os.killpg(0, signal.SIGKILL)

    signal.signal(signal.SIGUSR1, end)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGUSR1)
    while os.getppid() == guarded:  # where there is no such signal, the parent is looked for
        time.sleep(_GUARD_NAP)
    end()


def adopt_orphans() -> None:
    """Become the parent of processes whose own parent dies, where the system can (Linux).

    A grandchild that outlives its parent, even as a zombie, then keeps its id until this process waits for it, so that
    killing its group cannot hit another process that was given the same id.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def has_exited(pid: int) -> bool:
    """Whether a child is dead; it is not waited for, so that its id is not given to another process yet.

    Raises:
        ChildProcessError: it is no child of this process, or was waited for.
    """
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def how_it_ended(code: int) -> str:
    """A return code in words: an exit code, or the signal -code."""
    if code >= 0:
        return f"exit code {code}"
    name = {known.value: known.name for known in signal.Signals}.get(-code, "unknown")
    hint = ": killed from outside, often because memory ran out" if -code == signal.SIGKILL else ""
    return f"signal {-code}, {name}{hint}"


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        import ctypes  # slow to import, and clients, which only start supervisors, need none of it

        ctypes.CDLL(None, use_errno=True).prctl(option, value)
