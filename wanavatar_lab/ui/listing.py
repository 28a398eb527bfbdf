"""Searchable lists on a page: filtered by kind and words, shown page by page, refreshed from the disk.

The page receives only the entries it shows; searching happens in the kernel. `static/listing.js` is the page's half.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import traitlets

from wanavatar_lab.ui.messages import in_language, noticed
from wanavatar_lab.ui.widget import LabWidget, repeat

PAGE = 24  # entries shown at first, and added at each click on "Show more"; 2, 3 and 4 columns all divide it


class Listing(LabWidget):
    """A list of entries found on the disk.

    A subclass finds them (`_look`, `_find`), describes each to the page (`_card`) and handles the messages of
    its buttons (`_act`). What these methods use has to be set before `__init__` of this class is called. Its words are
    those of the table `listing` and its own: each kind as `kind_…`, the search field as `search`, an empty list as
    `empty`.

    Attributes:
        kind: only entries of this kind are shown; "" shows every kind.
        query: only entries with each of these words are shown.
        limit: how many entries are shown at most.
        kinds: the kinds that exist.
        entries: what is shown, as the page needs it; each has an `id`.
        total: how many are found.
        notice: the last error.
        fault: a lasting error, shown while there is no newer one.
    """

    REFRESH_SECONDS: ClassVar[float] = 2.0
    fault = ""

    kind = traitlets.Unicode("").tag(sync=True)
    query = traitlets.Unicode("").tag(sync=True)
    limit = traitlets.Int(PAGE).tag(sync=True)
    page_size = traitlets.Int(PAGE, read_only=True).tag(sync=True)
    kinds = traitlets.List(traitlets.Unicode()).tag(sync=True)
    entries: traitlets.List[Any] = traitlets.List().tag(sync=True)
    total = traitlets.Int(0).tag(sync=True)
    notice = traitlets.Unicode("").tag(sync=True)

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self.observe(lambda _: self._show(), ["kind", "query", "limit"])
        self.refresh()
        repeat(self.refresh, self.REFRESH_SECONDS, self)

    def refresh(self) -> None:
        """Read the disk again. In a running event loop this happens every `REFRESH_SECONDS`."""
        try:
            if self._look():
                self._show()
        except OSError as error:
            self.notice = in_language(str(error))  # the disk may be back at the next refresh

    def receive(self, content: Mapping[str, Any], buffers: Sequence[memoryview] = ()) -> None:
        """Do what a button asks for; an error becomes the notice."""
        with noticed(self, self.fault):
            self._act(content)

    def show_words(self) -> None:
        """Put every text into the language shown, those of the entries too."""
        super().show_words()
        self._show()

    def _look(self) -> bool:
        """Read the disk again and set `kinds`; whether anything changed."""
        raise NotImplementedError

    def _find(self) -> Sequence[Any]:
        """The entries that pass the filters, in the order shown."""
        raise NotImplementedError

    def _card(self, found: Any) -> dict[str, Any]:
        """An entry as the page needs it."""
        raise NotImplementedError

    def _act(self, content: Mapping[str, Any]) -> None:
        """Do what a message of the page asks for."""
        raise NotImplementedError

    def _show(self) -> None:
        found = self._find()
        with self.hold_sync():
            self.total = len(found)
            self.entries = [self._card(each) for each in found[: self.limit]]
