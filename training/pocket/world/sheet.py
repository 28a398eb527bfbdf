"""The parameter sheet: every number the renderer needs, one row per frame, in one tensor.

Attributes and poses become named columns on the CPU; one transfer moves them to the device; the renderer reads them by
name, shaped to broadcast over pixels. Rendering is therefore a pure function of one tensor, without host syncs, that a
compiler can process whole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sheet:
    """`values` [M, P], the columns of each name, and the names known to be zero in every row."""

    columns: Mapping[str, slice]
    values: Tensor
    absent: frozenset[str] = frozenset()

    @classmethod
    def of(cls, named: Mapping[str, Tensor]) -> "Sheet":
        """Concatenate named tensors [N] (numbers) and [N, K] (colours and other vectors) into one sheet."""
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
        """False if `name` is known to be zero in every row, so that the part can be skipped."""
        return name not in self.absent

    def looked_through(self) -> "Sheet":
        """The same sheet with all-zero names marked. It reads all values: call it on the CPU, before drawing."""
        filled = (self.values != 0).any(dim=0)
        absent = frozenset(name for name, part in self.columns.items() if not bool(filled[part].any()))
        return Sheet(self.columns, self.values, absent)

    def rows(self, start: int, end: int) -> "Sheet":
        """Rows `start` to `end`."""
        return Sheet(self.columns, self.values[start:end], self.absent)

    def to(self, device: torch.device | str) -> "Sheet":
        """The same sheet on `device`."""
        return Sheet(self.columns, self.values.to(device, non_blocking=True), self.absent)

    def repeated(self, frames: int) -> "Sheet":
        """Repeat every row `frames` times: from one row per avatar to one per frame."""
        return Sheet(self.columns, self.values.repeat_interleave(frames, dim=0))

    def joined(self, other: "Sheet") -> "Sheet":
        """Concatenate the columns of two sheets with the same rows.

        Raises:
            ValueError: a column name is in both.
        """
        twice = self.columns.keys() & other.columns.keys()
        if twice:
            raise ValueError(f"Both sheets have columns named {', '.join(sorted(twice))}; rename one of each.")
        width = self.values.shape[1]
        moved = {name: slice(part.start + width, part.stop + width) for name, part in other.columns.items()}
        return Sheet({**self.columns, **moved}, torch.cat([self.values, other.values], dim=1))


def pick(rows: Sequence[Mapping[str, float]], index: Tensor, prefix: str) -> dict[str, Tensor]:
    """Look up rows of a table by `index` [N]: one tensor [N] per key, named `prefix` + key.

    All rows must have the keys of the first one (else KeyError).
    """
    return {prefix + key: torch.tensor([row[key] for row in rows])[index] for key in rows[0]}


def table(columns: str, *rows: tuple[float, ...]) -> tuple[dict[str, float], ...]:
    """Build rows for `pick` from space-separated column names and the numbers of each row.

    Raises:
        ValueError: a row's length differs from the number of columns.
    """
    return tuple(dict(zip(columns.split(), row, strict=True)) for row in rows)
