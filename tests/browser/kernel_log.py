"""What goes wrong within the kernels of a test's server, which neither the server's log nor the page would tell."""

import os
from pathlib import Path

LOG = ".kernels.log"

# executed by every kernel before its first cell
STARTUP = """
import logging, traceback
from IPython import get_ipython
_handler = logging.FileHandler({log!r})
_handler.setLevel(logging.ERROR)
logging.getLogger().addHandler(_handler)
_shell = get_ipython()
_shown = _shell._showtraceback
def _note(etype, evalue, stb):
    logging.getLogger("cell").error("In a cell or a callback:\\n%s", "".join(traceback.format_exception(evalue)))
    _shown(etype, evalue, stb)
_shell._showtraceback = _note
del _handler, logging, get_ipython
"""


def prepare(folder: Path) -> dict[str, str]:
    """Make kernels of servers over `folder` keep such a log; returns what their environment needs."""
    home = folder / ".ipython"
    startup = home / "profile_default" / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    (startup / "00-log.py").write_text(STARTUP.format(log=os.fspath(folder / LOG)), encoding="utf-8")
    return {"IPYTHONDIR": os.fspath(home)}


def lines(folder: Path) -> list[str]:
    """What was logged since the last call."""
    log = folder / LOG
    if not log.exists():
        return []
    text = log.read_text(encoding="utf-8")
    log.write_text("", encoding="utf-8")
    return text.splitlines()
