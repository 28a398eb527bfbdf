"""A contact sheet: a table of pictures or clips, labelled with what each row and each column has in common."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import traitlets

from wanavatar_lab.errors import LabError
from wanavatar_lab.ui.language import read_words
from wanavatar_lab.ui.served_files import kind_of, server_path
from wanavatar_lab.ui.widget import LabWidget, script, styles


class ContactSheet(LabWidget):
    """A table of files; cells may be filled one by one.

    Args:
        rows: a label for each row, for example "seed 1".
        columns: a label for each column.

    Attributes:
        cells: per row and column `{"path", "kind", "version"}`, None where there is no file yet, or
            `{"why", "error"}` where there will be none.

    Raises:
        LabError: there are no rows or no columns.
    """

    _esm = script("contact_sheet")
    _css = styles("contact_sheet")
    WORDS = read_words(__file__, "states", "contact_sheet")

    rows = traitlets.List(traitlets.Unicode()).tag(sync=True)
    columns = traitlets.List(traitlets.Unicode()).tag(sync=True)
    cells: traitlets.List[Any] = traitlets.List().tag(sync=True)

    def __init__(self, rows: Sequence[str], columns: Sequence[str]) -> None:
        if not rows or not columns:
            raise LabError(f"A contact sheet of {len(rows)} rows and {len(columns)} columns is empty.")
        super().__init__(rows=list(rows), columns=list(columns), cells=[[None] * len(columns) for _ in rows])

    def fill(self, row: int, column: int, path: Path | str) -> None:
        """Put a picture, clip or recording into a cell.

        Raises:
            LabError: the page cannot show the file.
        """
        path = Path(path)
        kind = kind_of(path)
        if not kind:
            raise LabError(f"{path.name} is no picture, clip or sound, and cannot be put on a contact sheet.")
        self._put(row, column, {"path": server_path(path), "kind": kind, "version": str(path.stat().st_mtime_ns)})

    def leave(self, row: int, column: int, why: str, error: str = "") -> None:
        """Mark a cell that stays empty.

        Args:
            row, column: of the cell.
            why: failed, cancelled, gone or unseen.
            error: the reason in full, if there is more to say.
        """
        self._put(row, column, {"why": why, "error": error})

    def _put(self, row: int, column: int, cell: dict[str, str]) -> None:
        cells = [list(line) for line in self.cells]  # a change in place would not be noticed
        cells[row][column] = cell
        self.cells = cells
