"""What goes wrong within the kernels of a test's server, which neither the server's log nor the page would tell."""

import os
from pathlib import Path

LOG = ".kernels.log"

# executed by every kernel before its first cell
STARTUP = """
def _keep_a_log():
    import logging, traceback
    from IPython import get_ipython
    handler = logging.FileHandler({log!r})
    handler.setLevel(logging.ERROR)
    logging.getLogger().addHandler(handler)
    shell = get_ipython()
    shown = shell._showtraceback
    def note(etype, evalue, stb):
        logging.getLogger("cell").error("In a cell or a callback:\\n%s", "".join(traceback.format_exception(evalue)))
        shown(etype, evalue, stb)
    shell._showtraceback = note
_keep_a_log()
del _keep_a_log
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
