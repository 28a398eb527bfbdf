"""What all widgets of this package share: texts in the language shown, closing, scripts, style sheets, background work,
and the record that a notebook keeps of them.

`LabWidget` is an anywidget with a view of its own: plain scripts of `static/`, without a build. `LabBox` is a column of
ipywidgets. `Look` carries the style sheet of boxes to the page, and `LanguageSwitch` is the menu of languages.
What a button, a message or a timer begins must not block the kernel's event loop: `start` and `repeat` run it there.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import anywidget
import ipywidgets as widgets
import traitlets

from wanavatar_lab.errors import LabError
from wanavatar_lab.requests import Words
from wanavatar_lab.ui.language import NAMES, language, read_words
from wanavatar_lab.ui.record import VIEW, Record, is_headless, joined, record_of

STATIC = Path(__file__).parent / "static"

_log = logging.getLogger(__name__)
_running: set[asyncio.Task[Any]] = set()  # the loop itself keeps only weak references to its tasks


def script(*names: str) -> str:
    """One ES module made of files of `static/`, the last of which exports the view.

    A browser gets a widget's script as one text, which therefore cannot import other files.
    """
    return _joined(("urls", "elements", *names), ".js")


def styles(*names: str) -> str:
    """One style sheet made of files of `static/`, after the theme."""
    return _joined(("theme", *names), ".css")


def _joined(names: Sequence[str], suffix: str) -> str:
    return "\n".join((STATIC / f"{name}{suffix}").read_text(encoding="utf-8") for name in names)


class Recorded:
    """A widget that leaves a record below its view in the notebook: see `ui/record.py`."""

    _handles: tuple[Any, ...] = ()  # of its records in the notebook
    _asked = 0  # how often it was to be written

    def record(self) -> Record:
        """What it shows now; by default, the records of what is in it."""
        return joined(map(record_of, getattr(self, "children", ())), across=isinstance(self, widgets.HBox))

    async def keep(self) -> None:
        """Write what it shows now into the notebook, as at the end of a run."""
        if not self._handles:
            return
        self._asked = asked = self._asked + 1
        # pictures and clips are read, which takes tenths of a second in which nothing else would answer
        record = await asyncio.to_thread(self.record)
        if asked == self._asked:  # a later one may have been faster
            self._write(record)

    def _write(self, record: Record) -> None:
        for handle in self._handles:
            handle.update(record.bundle(), raw=True)

    def _ipython_display_(self, **_: Any) -> None:
        from IPython.display import display  # only a kernel has it

        if not is_headless():
            shown: Any = self._repr_mimebundle_()  # type: ignore[attr-defined]
            view = {VIEW: (shown[0] if isinstance(shown, tuple) else shown)[VIEW]}
            # otherwise empty, since the record below says it
            display({**view, "text/html": "", "text/plain": type(self).__name__}, raw=True)
        if not os.environ.get("SERVER_SOFTWARE", "").startswith("voila/"):  # whose page is never saved
            handle = display({"text/html": "", "text/plain": ""}, raw=True, display_id=True)
            self._handles = (*self._handles, handle)
            self._write(self.record())  # before the cell ends, after which nbclient takes nothing more


class Translated(Recorded, widgets.Widget):
    """A widget whose texts follow the language until `close`.

    `show_words` is called at the end of `__init__`, so a subclass sets what it uses before that.
    """

    _unfollow: Callable[[], None] | None = None  # on the class: __del__ closes also a widget whose __init__ raised

    def __init__(self, *children: Any, **traits: Any) -> None:
        super().__init__(*children, **traits)
        self._unfollow = language.follow(self.show_words)

    def show_words(self) -> None:
        """Put every text into the language shown."""

    def close(self) -> None:
        """Close the widget; it no longer follows the language."""
        if self._unfollow is not None:
            self._unfollow()
            self._unfollow = None  # a widget is closed by its owner, and again by __del__
        super().close()


class LabWidget(Translated, anywidget.AnyWidget):
    """A widget with a view of its own.

    Attributes:
        WORDS: the texts of its view, by key.
        words: these in the language shown.
        lang: that language.
    """

    WORDS: ClassVar[dict[str, Words]] = {}

    words = traitlets.Dict().tag(sync=True)
    lang = traitlets.Unicode("en").tag(sync=True)

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.on_msg(lambda _, content, buffers: self.receive(content, buffers))

    def receive(self, content: Mapping[str, Any], buffers: Sequence[memoryview] = ()) -> None:
        """Handle a message of the page.

        Args:
            content: what it says; `kind` names what is wanted.
            buffers: binary data sent with it.
        """

    def show_words(self) -> None:
        """Put every text into the language shown."""
        with self.hold_sync():
            self.lang = language.code
            self.words = {key: language.of(words) for key, words in self.WORDS.items()}


class LabBox(Translated, widgets.VBox):
    """A column of widgets; closing it closes all widgets in it."""

    def close(self) -> None:
        """Close the box and everything in it."""
        for child in [*contents(self)]:
            child.close()
        super().close()


class Column(Recorded, widgets.VBox):
    """A column of widgets of other owners, which a notebook keeps."""


def contents(box: widgets.Widget) -> Iterator[widgets.Widget]:
    """All widgets in a box, at any depth."""
    for child in getattr(box, "children", ()):
        yield child
        yield from contents(child)


class Look(anywidget.AnyWidget):
    """An invisible widget that brings the style sheet of forms, panels and the page; any number of them, one sheet.

    The panel that it is a part of runs at Ctrl+Enter.

    Attributes:
        drawn: whether a page has drawn it, and so what it is a part of.
        reveal: the page scrolls to the panel that it is a part of, once.
    """

    _esm = script("look")
    _css = styles("panel", "page")

    drawn = traitlets.Bool(False).tag(sync=True)
    reveal = traitlets.Bool(False).tag(sync=True)

    def __init__(self) -> None:
        super().__init__(layout={"display": "none"})

    def when_drawn(self, work: Callable[[], None]) -> None:
        """Call `work` in the running event loop once a page has drawn this; without a running loop, at once.

        A timer would not do: a page that is still loading its widgets fails to show new ones that refer to widgets it
        has not loaded yet.
        """
        if not loop_runs():
            work()
            return
        loop = asyncio.get_running_loop()

        def drawn(_: object) -> None:
            # a page's message may arrive in any thread
            self.unobserve(drawn, "drawn")
            loop.call_soon_threadsafe(work)

        self.observe(drawn, "drawn")


class LanguageSwitch(LabWidget):
    """A native menu of the languages, each by its own name: all widgets of the kernel follow it, typed values stay.

    The first page of a kernel begins with the language that was chosen in its browser before, or else with the
    browser's own.

    Attributes:
        code: the language shown; setting it switches all widgets of this kernel.
        settled: as `Language.settled`.
    """

    _esm = script("language_switch")
    _css = styles()
    WORDS = read_words(__file__, "language_switch")

    code = traitlets.Unicode("en").tag(sync=True)
    settled = traitlets.Bool(False).tag(sync=True)
    names = traitlets.Dict(NAMES).tag(sync=True)

    def __init__(self) -> None:
        super().__init__(code=language.code)
        self.observe(self._switch, ["code", "settled"])

    def show_words(self) -> None:
        """Put every text into the language shown, and follow a switch made elsewhere."""
        super().show_words()
        with self.hold_sync():
            self.code, self.settled = language.code, language.settled

    def _switch(self, _: object) -> None:
        if self.code in NAMES:
            language.code, language.settled = self.code, self.settled or language.settled


def loop_runs() -> bool:
    """Whether an event loop runs in this thread, as in a notebook's kernel."""
    with suppress(RuntimeError):
        asyncio.get_running_loop()
        return True
    return False


def start(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any] | None:
    """Run `work` as a task of this thread's event loop; without a running loop, as in a script, run it to completion.

    Returns:
        The task, or None if `work` is done.
    """
    if not loop_runs():
        asyncio.run(work)
        return None
    task = asyncio.get_running_loop().create_task(work)
    _running.add(task)
    task.add_done_callback(_finished)
    return task


def _finished(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        # nothing may be awaiting the task, and its error would be lost
        _log.error("A widget's background task failed", exc_info=error)


def repeat(work: Callable[[], object], seconds: float, widget: widgets.Widget) -> None:
    """Call `work` every `seconds` until it returns True or `widget` is closed; without a running loop, never.

    What cannot be read or written is tried again: the disk may be back at the next call.
    """

    async def timer() -> None:
        said = ""
        while True:
            await asyncio.sleep(seconds)
            try:
                if widget.comm is None or work() is True:
                    return
                said = ""
            except (LabError, OSError) as error:
                if str(error) != said:  # once, and not every second for a night
                    said = str(error)
                    _log.warning("%s could not be brought up to date: %s", type(widget).__name__, said)

    if loop_runs():
        start(timer())
