"""Every number the drawing needs, one row per frame, in one tensor.

A look and a pose become named columns on the CPU; one transfer takes them to the device; the drawing reads them
back by name, shaped to broadcast over pixels. So the drawing is a pure function of one tensor: nothing in it waits
for the device, and a compiler can take it whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sheet:
    """`values` [M, P], which of its columns belong to which name, and which names are known to be zero in every row."""

    columns: Mapping[str, slice]
    values: Tensor
    absent: frozenset[str] = frozenset()

    @classmethod
    def of(cls, named: Mapping[str, Tensor]) -> "Sheet":
        """Gather named tensors [N] (numbers) and [N, K] (colours and other vectors) into one sheet."""
        columns, parts, width = {}, [], 0
        for name, tensor in named.items():
            part = tensor.reshape(tensor.shape[0], -1).float()
            columns[name] = slice(width, width + part.shape[1])
            width += part.shape[1]
            parts.append(part)
        return cls(columns, torch.cat(parts, dim=1))

    def __getitem__(self, name: str) -> Tensor:
        """The number `name`, [M, 1, 1]."""
        return self.values[:, self.columns[name]].reshape(-1, 1, 1)

    def colour(self, name: str) -> Tensor:
        """The colour `name`, [M, 3, 1, 1]."""
        return self.values[:, self.columns[name], None, None]

    def vector(self, name: str) -> Tensor:
        """The column or columns of `name`, [M, K]."""
        return self.values[:, self.columns[name]]

    def shows(self, name: str) -> bool:
        """Whether anything of `name` may be there to draw."""
        return name not in self.absent

    def looked_through(self) -> "Sheet":
        """The same sheet knowing what is absent. It reads all values, so it belongs on the CPU, before drawing."""
        filled = (self.values != 0).any(dim=0)
        absent = frozenset(name for name, part in self.columns.items() if not bool(filled[part].any()))
        return Sheet(self.columns, self.values, absent)

    def rows(self, start: int, end: int) -> "Sheet":
        """The frames from `start` to `end`."""
        return Sheet(self.columns, self.values[start:end], self.absent)

    def to(self, device: torch.device | str) -> "Sheet":
        """The same sheet on `device`."""
        return Sheet(self.columns, self.values.to(device, non_blocking=True), self.absent)

    def repeated(self, frames: int) -> "Sheet":
        """Every row `frames` times in a row: from one row per avatar to one per frame."""
        return Sheet(self.columns, self.values.repeat_interleave(frames, dim=0))

    def joined(self, other: "Sheet") -> "Sheet":
        """The columns of both, for the same frames.

        Raises:
            ValueError: a name is in both.
        """
        twice = self.columns.keys() & other.columns.keys()
        if twice:
            raise ValueError(f"Two columns have one name: {', '.join(sorted(twice))}. Rename one of each.")
        width = self.values.shape[1]
        moved = {name: slice(part.start + width, part.stop + width) for name, part in other.columns.items()}
        return Sheet({**self.columns, **moved}, torch.cat([self.values, other.values], dim=1))


def pick(rows: Sequence[Mapping[str, float]], index: Tensor, prefix: str) -> dict[str, Tensor]:
    """Look `index` [N] up in a table: one tensor [N] per key of its rows, named `prefix` + key.

    All rows must have the keys of the first one (a KeyError says which is missing).
    """
    return {prefix + key: torch.tensor([row[key] for row in rows])[index] for key in rows[0]}


def table(columns: str, *rows: tuple[float, ...]) -> tuple[dict[str, float], ...]:
    """Rows for `pick` from the names of the columns, in one string, and the numbers of each row.

    Raises:
        ValueError: a row has more or fewer numbers than there are columns.
    """
    return tuple(dict(zip(columns.split(), row, strict=True)) for row in rows)
