"""Which samples a step trains on: a function of the step alone, so that a resumed run has the order of the whole one.

Samples of one bucket have tensors of one shape, and a micro-batch is of one bucket. An epoch is a row of micro-batches
in which every sample comes once; only a bucket's last micro-batch is filled up, with its first samples. Steps take
their micro-batches from that row, and go on with the next epoch's where it ends. One process that accumulates two
micro-batches trains on the same samples as two processes with one each.

Micro-batches of one bucket follow each other, as many as a step has if there are, so that most steps have one or two
shapes: processes that compute different shapes wait for the longest.
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
        """Steps after which every sample was trained on; the last of them may begin the next epoch."""
        return self.steps_of(1)

    def steps_of(self, epochs: int) -> int:
        """Steps after which every sample was trained on so many times."""
        return math.ceil(epochs * self._micro_batches_an_epoch / (self.accumulation * self.world))

    def of_step(self, step: int) -> list[int]:
        """Sample indices of step number `step`, from 0: the first micro-batch of each process, then the second, ..."""
        return [index for some in self._micro_batches(step) for index in some]

    def of_micro_batch(self, step: int, micro: int, rank: int) -> list[int]:
        """Sample indices of micro-batch number `micro` of process `rank`."""
        return self._micro_batches(step)[micro * self.world + rank]

    def number(self, step: int, micro: int, rank: int) -> int:
        """The number by which a micro-batch's random numbers are drawn, the same however ranks share the step."""
        return (step * self.accumulation + micro) * self.world + rank

    @cached_property
    def _rows(self) -> dict[Hashable, list[int]]:
        rows: dict[Hashable, list[int]] = {}
        for index, bucket in enumerate(self.buckets):
            rows.setdefault(bucket, []).append(index)
        return rows

    @cached_property
    def _micro_batches_an_epoch(self) -> int:
        return sum(math.ceil(len(rows) / self.batch) for rows in self._rows.values())

    def _micro_batches(self, step: int) -> list[list[int]]:
        """The micro-batches of a step over all processes, those of one bucket together."""
        count, an_epoch = self.accumulation * self.world, self._micro_batches_an_epoch
        first, last = step * count, (step + 1) * count - 1
        epochs = range(first // an_epoch, last // an_epoch + 1)
        row = [some for epoch in epochs for some in self._epoch(epoch)]
        start = first - epochs[0] * an_epoch
        places = {bucket: place for place, bucket in enumerate(self._rows)}
        return sorted(row[start : start + count], key=lambda some: places[self.buckets[some[0]]])

    def _epoch(self, epoch: int) -> list[list[int]]:
        import torch  # here, since notebooks count the steps of an epoch and never load torch

        # seeded by the epoch, so that an epoch's order does not depend on those before; the factor is as in Draws.of
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        count, runs = self.accumulation * self.world, []
        for rows in self._rows.values():
            mixed = [rows[i] for i in torch.randperm(len(rows), generator=generator).tolist()]
            some = [mixed[start : start + self.batch] for start in range(0, len(mixed), self.batch)]
            while len(some[-1]) < self.batch:
                some[-1] += mixed[: self.batch - len(some[-1])]
            runs += [some[start : start + count] for start in range(0, len(some), count)]
        order = torch.randperm(len(runs), generator=generator).tolist()
        return [micro_batch for i in order for micro_batch in runs[i]]
