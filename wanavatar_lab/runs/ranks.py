"""The processes that make one run together, as one of them sees it: its number, and what all of them agree on.

Every process runs the same stage on the same request. Whatever could differ between them, such as free memory, a
cancellation or the fastest kernel, is decided by the first one, or by all, before it is acted on: processes that decide
differently would wait for each other for ever. torch is imported by processes that do share a run.
"""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Layout:
    """How processes share a run: `guidance` times `sequence` of them.

    Attributes:
        guidance: 2 if the two passes of guidance are computed by different processes, else 1.
        sequence: how many share the sequence of a pass.
    """

    guidance: int = 1
    sequence: int = 1

    @property
    def world(self) -> int:
        """How many processes there are."""
        return self.guidance * self.sequence

    def __str__(self) -> str:
        parts = {"guidance": self.guidance, "sequence": self.sequence}
        return " x ".join(f"{name} {number}" for name, number in parts.items() if number > 1) or "alone"


ALONE = Layout()


@dataclass(frozen=True)
class Ranks:
    """One process of a group; by itself a process that has no others.

    Attributes:
        rank: its number; 0 writes files and the status.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the run's files, status and log."""
        return self.rank == 0

    def agreed(self, value: Any) -> Any:
        """The value of the first process; to be called by all of them."""
        if self.world == 1:
            return value
        import torch

        box = [value]
        torch.distributed.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def least(self, number: int) -> int:
        """The smallest of the processes' numbers; to be called by all of them."""
        if self.world == 1:
            return number
        import torch

        box = torch.tensor(number)
        torch.distributed.all_reduce(box, torch.distributed.ReduceOp.MIN)
        return int(box)


BY_ITSELF = Ranks()
