"""Data-parallel training of a toy model on several GPUs: every rank draws its own batches, gradients are averaged.

    python -m torch.distributed.run --standalone --nproc-per-node 4 -m -- training.pocket.speech_to_video.train …

(the `--` keeps the launcher from parsing the training's `--run`). A single process is a world of size 1, for which
nothing in this module has any effect.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist

# Its functions have the world's group as a default argument. Imported after the group is made, which an optimizer does,
# they keep it after `destroy_process_group`, and gloo's threads abort the process if they hold a tensor when it exits.
import torch.distributed.nn
from torch import Tensor, nn


@dataclass(frozen=True)
class Ranks:
    """This process's place among the data-parallel processes.

    Attributes:
        rank: rank of this process.
        world: number of processes.
    """

    rank: int = 0
    world: int = 1

    @classmethod
    def joined(cls, device: torch.device) -> "Ranks":
        """Join the process group of `torch.distributed.run`; without that launcher, a world of size 1.

        On GPUs, each process uses the GPU of its local rank.
        """
        if "WORLD_SIZE" not in os.environ:
            return cls()
        if device.type == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        if not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes the files."""
        return self.rank == 0

    def own(self, number: int) -> int:
        """A number unique to this rank, from a step or a seed that all ranks share."""
        return number * self.world + self.rank

    def agreed(self, value: float) -> float:
        """Broadcast the first rank's value to all ranks."""
        if self.world == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=_device())
        dist.broadcast(shared, 0)
        return float(shared)

    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by the mean over all processes; a missing gradient counts as zero."""
        if self.world == 1:
            return
        gradients: list[Tensor] = []
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        together = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(together)
        together /= self.world
        parts = together.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [part.view_as(own) for part, own in zip(parts, gradients, strict=True)])

    def leave(self) -> None:
        """Wait for all ranks, then destroy the process group."""
        if self.world > 1:
            dist.barrier()
            dist.destroy_process_group()


def _device() -> torch.device:
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
