"""What panels and the page have in common: the style sheet for their fields, and that no dropped file takes it away.

How a file becomes a URL, without being embedded: Python names it below the server's root, the page does the rest.

A kernel cannot know under which address its page was opened, and Lab and Voilà serve files at different ones. So a
widget carries `server_path(file)`, and `static/urls.js` makes the URL from the page's own configuration.

What the widgets of our own share: plain scripts without a build, and words that follow the language.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import traitlets

from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import Words
from wanavatar_lab.settings import read_settings
from wanavatar_lab.ui.language import language


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


STATIC = Path(__file__).parent / "static"


def script(*names: str) -> str:
    """One ES module from files of `static/`, the last of which exports the view.

    A browser gets a widget's script as one text, which therefore cannot import its neighbours.
    """
    return _joined(("urls", "elements", *names), ".js")


def styles(*names: str) -> str:
    """One style sheet from files of `static/`, after the theme."""
    return _joined(("theme", *names), ".css")


def _joined(names: tuple[str, ...], suffix: str) -> str:
    return "\n".join((STATIC / f"{name}{suffix}").read_text(encoding="utf-8") for name in names)


class LabWidget(anywidget.AnyWidget):
    """A widget of this package.

    Attributes:
        words: the texts of the view in the language that is shown, by name.
        lang: that language.
    """

    WORDS: ClassVar[dict[str, Words]] = {}

    words = traitlets.Dict().tag(sync=True)
    lang = traitlets.Unicode("en").tag(sync=True)

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self._unfollow = language.follow(self.show_words)

    def show_words(self) -> None:
        """Put every text into the language that is shown; a class whose texts depend on more adds to this."""
        with self.hold_sync():
            self.lang = language.code
            self.words = {name: language.of(words) for name, words in self.WORDS.items()}

    def close(self) -> None:
        """End the widget; it follows the language no more."""
        # also called by __del__ of a widget whose __init__ raised
        if getattr(self, "_unfollow", None) is not None:
            self._unfollow()
        super().close()


class Look(anywidget.AnyWidget):
    """Shows nothing. The styles are there once per page however many of these there are.

    Attributes:
        drawn: whether a page has drawn what this is a part of.
    """

    _esm = (STATIC / "look.js").read_text(encoding="utf-8")
    _css = styles("panel", "page")

    drawn = traitlets.Bool(False).tag(sync=True)

    def __init__(self) -> None:
        super().__init__(layout={"display": "none"})

    def when_drawn(self, work: Callable[[], None]) -> None:
        """Do `work` once a page has drawn this, in the event loop that runs now; at once where none runs.

        What makes widgets must not go by the clock instead: a page that is just loading those there are would get
        some that refer to what it does not know yet, and fail to show them.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            work()
            return

        def drawn(_: object) -> None:
            # a page's message may come in any thread
            self.unobserve(drawn, "drawn")
            loop.call_soon_threadsafe(work)

        self.observe(drawn, "drawn")
