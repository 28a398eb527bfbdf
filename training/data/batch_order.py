"""Which samples a step trains on: a function of the step alone, so that a resumed run has the order of the whole one.

Samples of one bucket have tensors of one shape. All samples of a step come from one bucket, over all processes and
micro-batches, since a process with shorter sequences would wait for the others. One process that accumulates two
micro-batches trains on the same samples as two processes with one each.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Order:
    """The order of the samples in all epochs.

    Args:
        buckets: one per sample.
        batch: samples of one micro-batch on one process.
        accumulation: micro-batches of a step on one process.
        world: number of processes.
        seed: of all epochs.

    Raises:
        ValueError: there are no samples.
    """

    buckets: Sequence[Hashable]
    batch: int
    accumulation: int
    world: int
    seed: int

    def __post_init__(self) -> None:
        if not self.buckets:
            raise ValueError("There are no samples to train on.")

    @property
    def samples_a_step(self) -> int:
        """Samples of one step, over all processes and micro-batches."""
        return self.batch * self.accumulation * self.world

    @property
    def steps_an_epoch(self) -> int:
        """Steps of an epoch; a bucket's last step is filled up with its first samples."""
        return sum(math.ceil(len(rows) / self.samples_a_step) for rows in self._rows.values())

    def of_step(self, step: int) -> list[int]:
        """Sample indices of step number `step`, from 0: the first micro-batch of each process, then the second, ..."""
        epoch, number = divmod(step, self.steps_an_epoch)
        return self._epoch(epoch)[number]

    def of_micro_batch(self, step: int, micro: int, rank: int) -> list[int]:
        """Sample indices of micro-batch number `micro` of process `rank`."""
        start = (micro * self.world + rank) * self.batch
        return self.of_step(step)[start : start + self.batch]

    def number(self, step: int, micro: int, rank: int) -> int:
        """The number by which a micro-batch's random numbers are drawn, the same however ranks share the step."""
        return (step * self.accumulation + micro) * self.world + rank

    @cached_property
    def _rows(self) -> dict[Hashable, list[int]]:
        rows: dict[Hashable, list[int]] = {}
        for index, bucket in enumerate(self.buckets):
            rows.setdefault(bucket, []).append(index)
        return rows

    def _epoch(self, epoch: int) -> list[list[int]]:
        import torch  # here, since notebooks count the steps of an epoch and never load torch

        # seeded by the epoch, so that an epoch's order does not depend on those before; the factor is as in Draws.of
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        steps = []
        for rows in self._rows.values():
            mixed = [rows[i] for i in torch.randperm(len(rows), generator=generator).tolist()]
            for start in range(0, len(mixed), self.samples_a_step):
                some = mixed[start : start + self.samples_a_step]
                while len(some) < self.samples_a_step:
                    some += mixed[: self.samples_a_step - len(some)]
                steps.append(some)
        return [steps[i] for i in torch.randperm(len(steps), generator=generator).tolist()]
