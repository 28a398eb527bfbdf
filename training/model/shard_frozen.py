"""FSDP2 for the frozen weights only: they are sharded over the processes, and trained ones are whole on each.

torch's `fully_shard` gathers the weights of a block where it is computed, in the forward and in the backward pass, and
frees them after it. Trained parameters are left out: they are ordinary tensors, equal on all processes, whose gradients
are averaged once a step. So clipping, the EMA and checkpoints are those of one process.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from accelerate.utils import parse_flag_from_env  # type: ignore[import-untyped]
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from wanavatar_lab.s2v import WanS2VTransformer3DModel


def fsdp_requested() -> bool:
    """Whether the launcher's config asks for FSDP."""
    # accelerate's own FSDP is not used: it shards trained parameters too, and falls back to DDP on CPUs
    return bool(parse_flag_from_env("ACCELERATE_USE_FSDP"))


def shard_frozen(
    network: WanS2VTransformer3DModel, trained: Sequence[nn.Parameter], device: torch.device, processes: int
) -> tuple[int, int]:
    """Leave each process its shard of every frozen weight, in place.

    Args:
        network: whole, on `device`, and made trainable.
        trained: all of its trained parameters.
        device: of this process.
        processes: in all.

    Returns:
        Bytes of frozen weights on this process, and in all.
    """
    mesh = init_device_mesh(device.type, (processes,))
    for module in (*network.blocks, network):
        fully_shard(module, mesh=mesh, ignored_params=set(trained))
    sharded = [parameter for parameter in network.parameters() if isinstance(parameter, DTensor)]
    return sum(parameter.to_local().nbytes for parameter in sharded), sum(parameter.nbytes for parameter in sharded)


def average_gradients(trained: Sequence[nn.Parameter]) -> None:
    """Replace gradients by their means over all processes; all of them have to call it."""
    for parameter in trained:
        assert parameter.grad is not None  # every trained part is used in every step
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()
