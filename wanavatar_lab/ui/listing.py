"""What lists on a page have in common: they are searched, narrowed to a kind, shown bit by bit, and kept fresh.

The page gets as many entries as it shows, not all; searching is done here. `static/listing.js` is the page's half.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import traitlets

from wanavatar_lab.errors import LabError
from wanavatar_lab.ui.language import read_words
from wanavatar_lab.ui.tasks import loop_runs, start
from wanavatar_lab.ui.widget import LabWidget

PAGE = 24  # entries that are shown at first, and more at each click

WORDS = read_words(__file__, "listing")


class Listing(LabWidget):
    """A list of what lies on disk.

    A subclass finds it (`_look`, `_find`, `_kinds`), describes each to the page (`_card`), and does what a message asks
    for (`_act`). What these need is there before `__init__` of this class is called. Its words name each kind as
    `kind_…`, what is searched as `search`, and an empty list as `empty`.

    Attributes:
        kind: only these are shown; "" shows every kind.
        query: only those that have each of these words are shown.
        limit: so many are shown at most.
        kinds: the kinds that there are.
        entries: what is shown, as the page needs it; each has an `id`.
        total: how many are found.
        notice: what went wrong last.
    """

    REFRESH_SECONDS: ClassVar[float] = 2.0
    NARROWED_BY: ClassVar[Sequence[str]] = ()  # traits besides those above that say what is found

    kind = traitlets.Unicode("").tag(sync=True)
    query = traitlets.Unicode("").tag(sync=True)
    limit = traitlets.Int(PAGE).tag(sync=True)
    page_size = traitlets.Int(PAGE, read_only=True).tag(sync=True)
    kinds = traitlets.List(traitlets.Unicode()).tag(sync=True)
    entries: traitlets.List[Any] = traitlets.List().tag(sync=True)
    total = traitlets.Int(0).tag(sync=True)
    notice = traitlets.Unicode("").tag(sync=True)

    def __init__(self, **values: Any) -> None:
        self._ended = False
        super().__init__(**values)
        self.on_msg(self._hear)
        self.observe(lambda _: self._show(), ["kind", "query", "limit", *self.NARROWED_BY])
        self.refresh()
        if loop_runs():
            start(self._keep_fresh())

    def refresh(self) -> None:
        """Look at the disk again. Where an event loop runs, this happens by itself."""
        if self._look():
            self._show()

    def close(self) -> None:
        """End the widget."""
        self._ended = True
        super().close()

    def show_words(self) -> None:
        """Put every text into the language that is shown, those of the entries too."""
        super().show_words()
        self._show()

    def _look(self) -> bool:
        """Look at the disk again; whether anything is different."""
        raise NotImplementedError(type(self))

    def _find(self) -> Sequence[Any]:
        """What is to be shown, in its order."""
        raise NotImplementedError(type(self))

    def _kinds(self) -> list[str]:
        """The kinds that there are."""
        raise NotImplementedError(type(self))

    def _card(self, found: Any) -> dict[str, Any]:
        """One of them as the page needs it."""
        raise NotImplementedError(type(self))

    def _act(self, content: Mapping[str, Any]) -> None:
        """Do what a message of the page asks for."""
        raise NotImplementedError(type(self))

    def _fault(self) -> str:
        """What is wrong as long as nobody puts it right; it stands where nothing else went wrong last."""
        return ""

    def _show(self) -> None:
        found = self._find()
        with self.hold_sync():
            self.kinds = self._kinds()
            self.total = len(found)
            self.entries = [self._card(each) for each in found[: self.limit]]

    async def _keep_fresh(self) -> None:
        while not self._ended:
            await asyncio.sleep(self.REFRESH_SECONDS)
            try:
                self.refresh()
            except OSError as error:
                self.notice = str(error)  # of the disk; it may be there again at the next look

    def _hear(self, _: Any, content: dict[str, Any], __: list[memoryview]) -> None:
        self.notice = self._fault()
        try:
            self._act(content)
        except (LabError, OSError) as error:
            self.notice = str(error)
