"""Files of the page: which ones its server serves, under which path, and of which kind each is.

A kernel does not know the address of its page, and Lab and Voilà serve files at different ones. So a widget carries
`server_path(file)`, and `static/urls.js` makes the URL from the page's own configuration; no file is embedded.

Servers follow no link out of their root. So files of a runs folder outside of it, on a larger disk for instance, are
sent by the kernel to a player.
"""

import os
from contextlib import suppress
from pathlib import Path

from wanavatar_lab.errors import LabError
from wanavatar_lab.files import printable
from wanavatar_lab.runs.run import RUN_ID, runs_folder
from wanavatar_lab.runs.uploads import KINDS, kind_of, uploads_folder
from wanavatar_lab.settings import read_settings

__all__ = [
    "KINDS",
    "can_show",
    "is_sent",
    "kind_of",
    "run_of",
    "server_path",
    "server_root",
    "uploads_folder",
]


def server_root() -> Path:
    """The folder that the server serves, absolute."""
    return read_settings().server_root.absolute()


def server_path(path: Path | str) -> str:
    """The path of a file relative to the server's root, with `/`.

    A relative `path` counts from this process's working folder, as everywhere.

    Raises:
        LabError: the file is outside the server's root, or has a hidden name, which servers refuse to serve, or a
            name in bytes that no URL can have.
    """
    root = server_root()
    # not resolved: links below the root are served, even those that point outside of it
    absolute = Path(os.path.abspath(path))
    if not absolute.is_relative_to(root):
        absolute, root = absolute.resolve(), root.resolve()
    if not absolute.is_relative_to(root):
        raise LabError(
            f"{absolute} is outside of {root}, the folder that the page is served from, so the page cannot show it. "
            "Move it there, or start the server in a parent folder and set WANAVATAR_SERVER_ROOT to that."
        )
    below = absolute.relative_to(root)
    if any(part.startswith(".") for part in below.parts):
        raise LabError(f"{absolute} has a hidden name, and servers do not show such files. Rename it.")
    if printable(below.as_posix()) != below.as_posix():
        raise LabError(
            f"{printable(str(absolute))} has a name that is not in UTF-8, so the page cannot show it. Rename it."
        )
    return below.as_posix()


def run_of(path: Path | str) -> tuple[str, str]:
    """The id of the run whose file this is, and the file's name in the run's folder; both "" for any other file."""
    absolute, root = Path(os.path.abspath(path)), runs_folder()
    if absolute.is_relative_to(root):
        run, _, file = absolute.relative_to(root).as_posix().partition("/")
        if RUN_ID.fullmatch(run):
            return run, file
    return "", ""


def is_sent(path: Path | str) -> bool:
    """Whether the kernel sends a file to the page, as it does one of a runs folder outside of the server's root."""
    absolute = Path(os.path.abspath(path))
    inside = any(absolute.is_relative_to(root) for root in (server_root(), server_root().resolve()))
    return not inside and not can_show(path) and absolute.resolve().is_relative_to(runs_folder().resolve())


def served_path(path: Path | str | None) -> str:
    """`server_path` of a file; "" for none, and for one that the page cannot show."""
    with suppress(LabError):
        return server_path(path) if path else ""
    return ""


def can_show(path: Path | str) -> bool:
    """Whether a page can show this file."""
    return bool(served_path(path))
