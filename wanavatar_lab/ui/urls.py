"""How a file becomes a URL, without being embedded: Python names it below the server's root, the page does the rest.

A kernel cannot know under which address its page was opened, and Lab and Voilà serve files at different ones. So a
widget carries `server_path(file)`, and `static/urls.js` makes the URL from the page's own configuration.
"""

import os
from pathlib import Path

from wanavatar_lab.errors import LabError
from wanavatar_lab.settings import read_settings


def server_root() -> Path:
    """The folder that the server serves, absolute."""
    return read_settings().server_root.absolute()


def server_path(path: Path | str) -> str:
    """The path of a file relative to the server's root, with `/`.

    A relative `path` counts from this process's working folder, as everywhere.

    Raises:
        LabError: the file lies outside of the server's root, or under a hidden name, which servers refuse to serve.
    """
    root = server_root()
    # not resolved: a link below the root is served, wherever it leads
    absolute = Path(os.path.abspath(path))
    if not absolute.is_relative_to(root):
        absolute, root = absolute.resolve(), root.resolve()
    if not absolute.is_relative_to(root):
        raise LabError(
            f"{absolute} lies outside of {root}, the folder that the page is served from, so the page cannot show it. "
            "Put it there, or start the server in a folder above it and say so in WANAVATAR_SERVER_ROOT."
        )
    below = absolute.relative_to(root)
    if any(part.startswith(".") for part in below.parts):
        raise LabError(f"{absolute} has a hidden name, and servers do not show such files. Rename it.")
    return below.as_posix()


def can_show(path: Path | str) -> bool:
    """Whether a page can show this file."""
    try:
        server_path(path)
    except LabError:
        return False
    return True


def from_server_path(path: str) -> Path:
    """The file of a path that `server_path` gave, absolute."""
    return server_root() / path
